"""Penalties for suspicious clients across rounds: the second stage of DROP.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.2, eq. 7 and Algorithm 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    FederationSpec,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.defenses.parts.checks import check_range


class ActivityState(NamedTuple):
    """What the server remembers of the whole population."""

    penalties: Array  # f32 [N], pi_c >= 0
    banned: Array  # bool [N], for good


def activity_monitor(
    *,
    penalty: float = 1.0,
    reward: float | None = 0.5,
    blacklist_threshold: float | None = None,
) -> Stage:
    """Returns the stage that keeps clients whose penalty is zero.

    It judges the clients of the round by the score `suspicious` of an earlier stage:
    a suspicious client pays `penalty`, another one gets back up to `reward`. A client
    counts only when it is unsuspicious and owes nothing afterwards, so one flag costs
    penalty / reward clean rounds. Clients that were excluded for another reason keep
    their penalty. The stage adds the score `penalty` (f32 [n], after the round).

    Take binary fractions for `penalty` and `reward` (1, 0.5, 0.25, ...): "owes
    nothing" is an exact comparison with 0.

    Args:
      penalty: added per suspicious round, above 0.
      reward: taken off per clean round, not negative; None means `penalty`.
      blacklist_threshold: a client whose penalty reaches it is banned for good; None
        bans nobody, as in all published settings. (The released code fills a list
        that it never reads; the ban is what its name promises.)

    Raises:
      InputError: for a number outside its range.
    """
    if reward is None:
        reward = penalty
    check_range("penalty", penalty, 0, open_low=True)
    check_range("reward", reward, 0)
    check_range("blacklist_threshold", blacklist_threshold, 0, open_low=True)

    def init(spec: FederationSpec) -> ActivityState:
        return ActivityState(
            penalties=jnp.zeros(spec.population, jnp.float32),
            banned=jnp.zeros(spec.population, bool),
        )

    def apply(
        state: ActivityState, cohort: Cohort, context: RoundContext
    ) -> tuple[ActivityState, Cohort]:
        del context
        ids = cohort.client_ids
        suspicious = cohort.scores["suspicious"]
        before = state.penalties[ids]
        after = jnp.where(
            suspicious, before + penalty, jnp.maximum(before - reward, 0.0)
        )
        after = jnp.where(suspicious | included(cohort), after, before)
        banned = state.banned[ids]
        if blacklist_threshold is not None:
            banned |= after >= blacklist_threshold
        state = ActivityState(
            penalties=state.penalties.at[ids].set(after),
            banned=state.banned.at[ids].set(banned),
        )
        cohort = with_score(cohort, "penalty", after)
        return state, exclude(cohort, suspicious | (after > 0.0) | banned)

    return Stage(init, apply)
