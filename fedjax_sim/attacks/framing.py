"""Framing: attackers send what makes the server exclude benign clients.

Rules that look for clients who resemble each other, or for the smaller of two clusters,
judge a client by its neighbours; and penalties and bans outlast the round. So attackers
who give up their own influence can take that of others. The papers of such rules
(FoolsGold: Fung, Yoon, Beschastnikh, RAID 2020; DROP: Syros et al. 2025) measure
attackers who want to be counted only.

Letters: `n` cohort, `d` parameters.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, AttackSpec, CraftView, Knowledge
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError, check_range
from fedjax_sim.core.options import Count, Traced, checked
from fedjax_sim.numerics.columns import masked_mean

How = Literal["search", "fixed"]


class FramingState(NamedTuple):
    """What the reports have."""

    factor: Array  # f32 [], of the last round with attackers
    weight: Array  # f32 [], expected of the framed, of an equal one; NaN: not tried


@checked("attack")
def framing(
    *,
    framed: Count = 1,
    how: How = "search",
    factor: Traced[float] = 0.0,
    trials: Count = 8,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Updates beside those of chosen benign clients, for which these are excluded.

    Each attacker sends u + factor (u - m), where u is the update of one of the framed
    clients, who are shared out among the attackers, and m the mean of the benign ones:
    a copy at factor 0, farther out above it, the mean itself at -1.

    Args:
      framed: benign clients, those with the smallest ids in the round.
      how: `search` tries factors on the server's rule and takes the one with which the
        framed clients keep the least weight; `fixed` takes `factor`.
      factor: of `fixed`.
      trials: factors of `search`: 0, 1/2, 1, -1, 2, -2, 4, -4, and so on.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window, more framed clients
        than benign ones; in the first round, a rule that answers groups of clients
        apart, with `search`.
    """

    def init(spec: AttackSpec) -> FramingState:
        clients = np.arange(len(spec.partition.counts))
        benign = np.setdiff1d(clients, spec.malicious_ids)
        check_range("attack", "framed", framed, 1, len(benign))
        return FramingState(jnp.float32(0.0), jnp.float32(jnp.nan))

    def craft(state: FramingState, view: CraftView) -> tuple[FramingState, Array]:
        if how == "search" and view.answer is None:
            raise InputError(
                "config.attack.how = 'search' tries what it sends on the server's "
                "rule; config.defense.name must be a rule with one model for all "
                "clients; allowed: fixed"
            )
        benign = view.present & ~view.malicious
        victims = chosen(view.client_ids, benign, framed)
        mean = masked_mean(view.updates, benign)
        beside = view.updates[_shared_out(view, victims, framed)]

        def sent(scale: Array | float) -> Array:
            crafted = beside + scale * (beside - mean[None])
            return jnp.where(view.malicious[:, None], crafted, view.updates)

        if how == "fixed":
            return FramingState(jnp.float32(factor), jnp.float32(jnp.nan)), sent(factor)
        answer: Any = view.answer

        def kept(scale: Array) -> Array:
            weights = jnp.where(view.present, answer(sent(scale)).weights, 0.0)
            equal = victims.sum() / jnp.maximum(view.present.sum(), 1)
            share = jnp.where(victims, weights, 0.0).sum()
            return share / jnp.maximum(equal * weights.sum(), 1e-9)

        scales = candidates(trials)

        def search() -> FramingState:
            left = lax.map(kept, scales)
            best = jnp.argmin(left)  # of equal ones the first, nearest to a copy
            return FramingState(scales[best], left[best])

        able = view.malicious.any() & victims.any()
        state = lax.cond(able, search, lambda: state)
        return state, sent(state.factor)

    knowledge: tuple[Knowledge, ...] = ("benign_updates",)
    if how == "search":
        knowledge += ("aggregation_rule",)
    return Attack(
        knowledge=knowledge,
        init=init,
        active=active_rounds(start_round, end_round),
        craft=craft,
        report=lambda state: {"factor": state.factor, "framed_weight": state.weight},
        tries_rule=how == "search",
    )


def candidates(trials: int) -> Array:
    """The factors that are tried, f32 [trials]: 0, 1/2, 1, -1, 2, -2, 4, -4, ..."""
    found = [0.0, 0.5]
    size = 1.0
    while len(found) < trials:
        found += [size, -size]
        size *= 2
    return jnp.array(found[:trials], jnp.float32)


def chosen(client_ids: Array, benign: Array, count: int) -> Array:
    """Returns bool [n]: the `count` benign clients with the smallest ids, or all."""
    last = jnp.iinfo(client_ids.dtype).max
    order = jnp.argsort(jnp.where(benign, client_ids, last), stable=True)
    place = jnp.argsort(order, stable=True)
    return benign & (place < count)


def _shared_out(view: CraftView, victims: Array, count: int) -> Array:
    """Returns i32 [n]: for each attacker the row of the client that it frames."""
    last = jnp.iinfo(view.client_ids.dtype).max
    rank = lambda mask: jnp.argsort(
        jnp.argsort(jnp.where(mask, view.client_ids, last), stable=True), stable=True
    )
    rows = jnp.argsort(jnp.where(victims, view.client_ids, last), stable=True)
    number = jnp.clip(victims.sum(), 1, count)
    return rows[jax.lax.rem(rank(view.malicious).astype(jnp.int32), number)]


ENTRY = Entry(framing, paper="-")
