"""Penalties for suspicious clients across rounds: the second stage of DROP.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.2, eq. 7 and Algorithm 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.options import NonNegative, Positive, Traced

Penalty = Traced[Positive]
Reward = Traced[NonNegative] | None
BlacklistThreshold = Traced[Positive] | None
TauB = Traced[Positive] | None


class ActivityState(NamedTuple):
    """What the server remembers of the whole population."""

    penalties: Array  # f32 [N], pi_c >= 0
    banned: Array  # bool [N], for good


def activity_monitor(
    *,
    penalty: Penalty,
    reward: Reward,
    blacklist_threshold: BlacklistThreshold,
    tau_b: TauB = None,
    past_only: bool = False,
) -> Stage:
    """Returns the stage that keeps clients whose penalty is zero.

    It judges the clients of the round by the score `suspicious` of an earlier stage:
    a suspicious client pays `penalty`, another one gets back up to `reward`. A client
    counts only when it is unsuspicious and owes nothing afterwards, so one flag costs
    penalty / reward clean rounds. Clients that were excluded for another reason keep
    their penalty. The stage adds the score `penalty` (f32 [n], after the round).

    Take binary fractions for `penalty` and `reward` (1, 0.5, 0.25, ...): "owes
    nothing" is an exact comparison with 0. (The released code fills a blacklist that it
    never reads; the ban is what its name promises.)

    Args:
      penalty, reward, blacklist_threshold, tau_b: see `defenses.droplet`.
      past_only: a client is kept out by what it owes from earlier rounds alone, and
        never by being suspicious in this one: monitoring without clustering.
    """
    if reward is None:
        reward = penalty

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
        owed = jnp.where(suspicious, before, after) if past_only else after
        owes = owed > 0.0 if tau_b is None else owed >= tau_b
        if not past_only:
            owes |= suspicious
        return state, exclude(cohort, owes | banned)

    return Stage(init, apply)
