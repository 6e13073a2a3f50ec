"""Attackers who try on the server's rule how far they can go, and go that far.

An attack of any kind is made adaptive by a factor on what it sends, which is found anew
in every round: the attacker simulates the rule, with a randomness of its own, on what
it knows of the round. Algorithm 3 of FedREDefense (Xie, Fang, Gong, ICML 2024) is one
such search; Shejwalkar and Houmansadr (NDSS 2021) tailor their attacks in this way.

Letters: `n` cohort, `d` parameters.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.parts.line_search import maximize
from fedjax_sim.contracts.attack import (
    Attack,
    CraftView,
    Knowledge,
    shown,
    taken_rows,
)
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.reconstruction import (
    DistilledKnowledge,
    Reconstruction,
    explain,
    inner_steps,
)
from fedjax_sim.defenses.parts.ward_clusters import judged_by_ward
from fedjax_sim.numerics.columns import masked_mean
from fedjax_sim.numerics.flat import ravel

PyTree = Any
Adapt = Literal["scale", "search", "ward", "reconstruct"]
TRIES_RULE = ("scale", "search")
Knows = Literal["benign", "own"]

# `(view, what the attack sends f32 [n, d], rows that it writes bool [n]) ->
# (factor f32 [] or [n], what is sent with it f32 [n, d])`.
Find = Callable[[CraftView, Array, Array], tuple[Array, Array]]


def scaled(attack: Attack, find: Find, knowledge: Iterable[Knowledge]) -> Attack:
    """Returns the attack with a factor on what it sends, found in every round.

    The state is that of the attack and the mean factor of the last round with
    attackers, which the reports have as `factor`.

    Args:
      attack: is shown no more than it declares itself.
      find: the factor.
      knowledge: what finding it takes.
    """

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        inner, last = state
        own = shown(attack, view)
        updates = view.updates
        if attack.craft is not None:
            inner, updates = attack.craft(inner, own)
        rows = taken_rows(attack, own)

        def search() -> tuple[Array, Array]:
            factor, sent = find(view, updates, rows)
            factor = jnp.broadcast_to(factor, rows.shape)
            mean = jnp.where(rows, factor, 0.0).sum() / jnp.maximum(rows.sum(), 1)
            return mean, sent

        # A round without attackers keeps what the last one found.
        last, sent = lax.cond(view.malicious.any(), search, lambda: (last, updates))
        return (inner, last), sent

    def report(state: PyTree) -> dict[str, Array]:
        inner, factor = state
        found = attack.report(inner) if attack.report else {}
        return {**found, "factor": factor}

    of_inner = lambda seam: seam and (lambda state, *given: seam(state[0], *given))
    of_tools = lambda seam: (
        seam
        and (lambda tools, *given: seam(tools._replace(state=tools.state[0]), *given))
    )
    keep = lambda seam: (
        seam and (lambda state, *given: (seam(state[0], *given), state[1]))
    )
    return attack._replace(
        knowledge=tuple(dict.fromkeys((*attack.knowledge, *knowledge))),
        init=lambda spec: (attack.init(spec), jnp.float32(1.0)),
        craft=craft,
        report=report,
        observe=keep(attack.observe),
        prepare=keep(attack.prepare),
        triggers=of_inner(attack.triggers),
        local_transform=of_inner(attack.local_transform),
        local_stages=of_tools(attack.local_stages),
        result=of_tools(attack.result),
    )


def adapted(
    attack: Attack,
    how: Adapt,
    *,
    share: float,
    trials: int,
    largest: float | None,
    knows: Knows,
) -> Attack:
    """Returns the attack, as strong as the server's rule lets it be.

    What is trained is scaled from the global model, what is crafted from the mean of
    the benign updates.

    Args:
      attack: any.
      how: `scale` takes the largest factor with which the attackers keep so much
        weight; `search` the one that moves the server's answer farthest from the benign
        mean in the attackers' direction; `ward`, without knowing the rule, the largest
        with which that share of the attackers is in the larger of two Ward clusters
        (those of DROP), of so many factors.
        `reconstruct` scales nothing: what FedREDefense's reconstruction makes of an
        update is sent in its place, the nearest one that it finds reconstructible.
      share: of an equal weight, that the attackers keep together.
      trials: simulations of the rule in a round.
      largest: factor; None is the number of clients over that of attackers, with which
        a mean becomes the attackers' own.
      knows: which updates stand for the benign ones: `benign`, their own; `own`, drawn
        with the mean and the covariance of the attackers' honest ones.

    Raises:
      InputError: attackers who never train honestly have no honest updates; in the
        first round, a rule that answers groups of clients apart, or one that
        reconstructs nothing.
    """
    if how == "reconstruct":
        return scaled(attack, reconstructible, ("own_updates", "aggregation_rule"))
    if knows == "own" and attack.trains_otherwise:
        raise InputError(
            "config.attack.adapt_knows = 'own': with this config.attack.name the "
            "attackers train on poison and have no honest updates to judge by; "
            "allowed: benign"
        )
    crafted_only = attack.craft is not None and not attack.trains_otherwise

    def find(view: CraftView, updates: Array, rows: Array) -> tuple[Array, Array]:
        if view.answer is None and how in TRIES_RULE:
            raise InputError(
                f"config.attack.adapt = {how!r} tries what it sends on the server's "
                "rule; config.defense.name must be a rule with one model for all "
                "clients"
            )
        benign = view.present & ~rows
        others = view.updates if knows == "benign" else _drawn_like_own(view)
        mean = masked_mean(others, benign)
        centre = mean if crafted_only else jnp.zeros_like(mean)

        def sent(factor: Array) -> Array:
            scaled = centre[None] + factor * (updates - centre[None])
            return jnp.where(rows[:, None], scaled, others)

        present = view.present.sum()
        bound = largest or jnp.maximum(present / jnp.maximum(rows.sum(), 1), 2.0)

        answer: Any = view.answer  # of a rule that is tried

        def inside(factor: Array) -> Array:
            _, apart = judged_by_ward(sent(factor), view.present, view.client_ids)
            return (rows & ~apart).sum() / rows.sum()

        def keeps(factor: Array) -> Array:
            weights = jnp.where(view.present, answer(sent(factor)).weights, 0.0)
            kept = jnp.where(rows, weights, 0.0).sum()
            equal = rows.sum() / present
            return (kept > 0) & (kept >= share * equal * weights.sum())

        def progress(factor: Array) -> Array:
            wanted = masked_mean(updates, rows) - mean
            moved = answer(sent(factor)).update - mean
            return jnp.where(factor <= bound, wanted @ moved, -jnp.inf)

        if how == "scale":
            factor = largest_kept(keeps, bound, trials)
        elif how == "ward":
            factor = largest_inside(inside, bound, share, trials)
        else:
            factor = maximize(
                progress, evals=trials, start=1.0, step=1.0, ratio=0.5, method=_METHOD
            ).best
        return factor, sent(factor)

    knowledge: tuple[Knowledge, ...] = ("own_updates",)
    if how in TRIES_RULE:
        knowledge += ("aggregation_rule",)
    if knows == "benign":
        knowledge = ("benign_updates", *knowledge)
    return scaled(attack, find, knowledge)


_METHOD: Literal["line_maximize"] = "line_maximize"


def reconstructible(
    view: CraftView, updates: Array, rows: Array
) -> tuple[Array, Array]:
    """What FedREDefense makes of each attacker's update, and how much of its length.

    The attacker mirrors the server, as in Algorithm 3: same settings, same knowledge
    of its client to start from. What the inner steps on the synthetic images then
    reach has a reconstruction error of 0.

    Raises:
      InputError: the rule reconstructs nothing.
    """
    settings = view.settings
    if not isinstance(settings, Reconstruction):
        raise InputError(
            "config.attack.adapt = 'reconstruct' imitates the server's reconstruction: "
            "it needs config.defense.name = 'fedredefense'"
        )
    server, _ = view.defense
    found = explain(
        settings._replace(mode="continuous"),
        server,
        updates,
        view.client_ids,
        rows,
        round_=view.round,
        params=view.global_params,
        network=view.network,
    )

    def reached(knowledge: DistilledKnowledge) -> Array:
        network, start = view.network, view.global_params
        with network.in_precision():
            steps = inner_steps(
                network, start, knowledge, settings.inner_steps, settings.variant
            )
        return ravel(steps[-1]) - start

    sent = lax.map(reached, found.knowledge)
    # One that is no number would be found out; then the update itself is as good.
    usable = jnp.isfinite(sent).all(1)[:, None]
    sent = jnp.where(usable, sent, updates)
    lengths = jnp.linalg.norm(updates, axis=1)
    return jnp.linalg.norm(sent, axis=1) / jnp.where(lengths > 0, lengths, 1.0), sent


def largest_kept(
    keeps: Callable[[Array], Array], largest: Array | float, trials: int
) -> Array:
    """Returns the largest factor f32 [] found by bisection of its logarithm.

    Between 1 / largest, which is returned if nothing is kept, and `largest`.

    Args:
      keeps: f32 [] -> bool [].
      largest: above 1.
      trials: calls of `keeps`.
    """
    power = lambda exponent: jnp.power(jnp.float32(largest), exponent)

    def halve(i: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        # The upper end itself comes first.
        middle = jnp.where(i == 0, high, (low + high) / 2)
        kept = keeps(power(middle))
        return jnp.where(kept, middle, low), jnp.where(kept, high, middle)

    begin = jnp.float32(-1), jnp.float32(1)
    return power(lax.fori_loop(0, trials, halve, begin)[0])


def largest_inside(
    inside: Callable[[Array], Array], largest: Array | float, share: float, trials: int
) -> Array:
    """Returns the largest of some factors with which so many are inside, f32 [].

    If there is none, the first of those with most. Clusters jump: what is inside at a
    factor may be outside at a smaller one, so this is no bisection.

    Args:
      inside: f32 [] -> f32 [], a share.
      largest: above 1; the factors lie between its inverse and it, evenly by logarithm.
      share: that is wanted.
      trials: factors.
    """
    factors = jnp.power(jnp.float32(largest), jnp.linspace(1.0, -1.0, trials))
    found = lax.map(inside, factors)
    return factors[jnp.argmax(jnp.minimum(found, share))]


def _drawn_like_own(view: CraftView) -> Array:
    """f32 [n, d]: the attackers' honest updates, and for the others some like them."""
    rows, n = view.malicious, len(view.malicious)
    mean = masked_mean(view.updates, rows)
    offsets = jnp.where(rows[:, None], view.updates - mean[None], 0.0)
    draws = jax.random.normal(view.key, (n, n)) / jnp.sqrt(
        jnp.maximum(rows.sum() - 1, 1)
    )
    drawn = mean[None] + jnp.matmul(draws, offsets, precision=lax.Precision.HIGHEST)
    return jnp.where(rows[:, None], view.updates, drawn)
