"""The geometric median: robust federated aggregation (RFA).

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE
Transactions on Signal Processing 2022, Algorithm 2 (smoothed Weiszfeld).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Positive, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import median_norm
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.common_part import centred_gram, span_distances
from fedjax_sim.numerics.distances import Lengths, finite, in_float32, row_lengths
from fedjax_sim.numerics.gram import row_units, scaled_gram

Variant = Literal["paper", "release", "byzfl", "flpoison"]

# Of the median distance to the start, where nu is not given.
_RELATIVE_NU = 1e-6

# No distance is taken for less: float32 divides by it.
_SMALLEST = 2.0**-126

# At a smaller relative change of the objective the released code stops.
_TOLERANCE = 1e-6


class _Form(NamedTuple):
    """What the implementations differ in."""

    weighted: bool  # weights and start by the clients' weights, else start 0
    nu: float | None
    iterations: int
    stops: bool = False


_FORMS: dict[Variant, _Form] = {
    "paper": _Form(True, None, 4),
    "release": _Form(True, 1e-5, 4, stops=True),
    "byzfl": _Form(False, 0.1, 3),
    "flpoison": _Form(False, 1e-6, 3),
}


@checked("defense")
def geometric_median(
    *,
    variant: Variant = "paper",
    nu: Traced[Positive] | None = None,
    iterations: Count | None = None,
) -> Defense:
    """Returns the point of the least weighted sum of distances to the updates.

    From the weighted mean z each step takes the mean with the weights alpha_i /
    max(nu, |u_i - z|). Score: `weiszfeld_weight` f32 [n], those of the last step, which
    add up to 1 and also weigh the running statistics.

    Args:
      variant: `paper` as above; `release` the authors' code, which ends early when the
        objective changes by less than 1e-6 of it; `byzfl` (0.0.11) and `flpoison`
        start at 0 and ignore the clients' weights, `byzfl` with a nu of 0.1, under
        which updates shorter than it are simply averaged.
      nu: smallest distance that counts. By default 1e-6 of the median distance of the
        updates to their mean (the paper's 1e-6 is a length, and would be large beside
        tiny updates), 1e-5 in `release`, 0.1 in `byzfl`, 1e-6 in `flpoison`.
      iterations: steps, by default 4 (of which the paper says that 3 suffice (m): from
        memory); 3 in `byzfl` and `flpoison`.

    Raises:
      InputError: an option outside its range, or one that the variant fixes.
    """
    if variant != "paper":
        for key, value in (("nu", nu), ("iterations", iterations)):
            if value is not None:
                raise InputError(
                    f"config.defense.{key} = {value} does not belong to "
                    f"config.defense.variant = {variant!r}, which fixes it; allowed: "
                    "none"
                )
    form = _FORMS[variant]
    given = form.nu if nu is None else nu
    steps = form.iterations if iterations is None else iterations

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        alphas = weiszfeld_weights(cohort, given, steps, form.weighted, form.stops)
        return with_score(cohort._replace(weights=alphas), "weiszfeld_weight", alphas)

    return pipeline(stateless(judge))


def weiszfeld_weights(
    cohort: Cohort,
    nu: float | Array | None,
    iterations: int,
    weighted: bool = True,
    stops: bool = False,
) -> Array:
    """Returns the weights f32 [n] of the last step; they add up to 1 (or are all 0).

    All points of the iteration are means of the updates, whose distances follow from
    the products of the updates: one pass. Where these are not exact enough, because a
    point comes near to an update, every step passes over the updates.

    Args:
      cohort: of n clients.
      nu: smallest distance, None for one relative to the updates.
      iterations: at most so many steps.
      weighted: starts at the mean by the clients' weights, instead of at 0 and with
        equal weights.
      stops: once the objective hardly changes.
    """
    mask = included(cohort)
    alphas = cohort.weights if weighted else mask.astype(jnp.float32)
    alphas = alphas / jnp.maximum(alphas.sum(), _SMALLEST)
    run = partial(
        _weiszfeld, mask, alphas, nu, iterations=iterations, origin=not weighted
    )
    if weighted:
        order = jnp.argsort(cohort.client_ids)
        products, units = centred_gram(cohort.updates, mask, order)
    else:
        products, units = scaled_gram(cohort.updates)
    near = span_distances(products, mask, 1.0 if weighted else 0.5)
    found, exact = run(near, stops=stops)

    def by_passes() -> Array:
        return run(_pass_distances(cohort.updates), stops=stops)[0]

    return lax.cond(exact & (units == 1).all(), lambda: found, by_passes)


# Half the distances f32 [n] of the updates to their mean with weights f32 [n], or to
# the origin where these are all 0; and whether they are exact.
HalfDistances = Callable[[Array], tuple[Array, Array]]


def _weiszfeld(
    mask: Array,
    alphas: Array,
    nu: float | Array | None,
    half_distances: HalfDistances,
    *,
    iterations: int,
    origin: bool,
    stops: bool,
) -> tuple[Array, Array]:
    """The steps; also returns whether all distances were exact."""
    first, exact = half_distances(jnp.zeros_like(alphas) if origin else alphas)
    floor = _RELATIVE_NU * median_norm(first, mask) if nu is None else 0.5 * nu
    floor = jnp.where(mask.any(), jnp.maximum(floor, _SMALLEST), 1.0)

    def step(i: Array, carry: tuple) -> tuple:
        del i
        weights, halves, objective, done, exact = carry
        halves = jnp.maximum(halves, floor)
        nearest = jnp.where(mask, halves, jnp.inf).min()
        closeness = jnp.where(mask, alphas * (nearest / halves), 0.0)
        new = closeness / jnp.maximum(closeness.sum(), _SMALLEST)
        moved, right = half_distances(new)
        after = (alphas * moved).sum()
        weights, halves = (
            jnp.where(done, old, now)
            for old, now in zip((weights, halves), (new, moved), strict=True)
        )
        if stops:
            done |= jnp.abs(objective - after) < _TOLERANCE * after
        return weights, halves, after, done, exact & right

    begin = (alphas, first, (alphas * first).sum(), jnp.bool_(False), exact)
    weights, *_, exact = lax.fori_loop(0, iterations, step, begin)
    return weights, exact


def _pass_distances(updates: Array) -> HalfDistances:
    """Of numbers of any size, by a pass over the updates each time."""
    lengths = row_lengths(updates)
    units = jnp.where(lengths.norms > 0, lengths.units, 0.0)

    def half_distances(weights: Array) -> tuple[Array, Array]:
        point = finite(weights @ updates)
        # Half: the difference of two numbers of float32 may exceed it. In units of the
        # longer of the two, so that one pass over the updates is enough.
        own = jnp.where(point.any(), row_units(point[None])[0], 0.0)
        unit = jnp.maximum(units, own)
        unit = jnp.where(unit > 0, unit, 1.0)
        inverse = (1.0 / unit)[:, None]
        gaps = jnp.square(inverse * updates - inverse * point[None])
        return in_float32(Lengths(0.5 * jnp.sqrt(gaps.sum(1)), unit)), jnp.bool_(True)

    return half_distances


ENTRY = Entry(
    geometric_median,
    paper="Pillutla et al., IEEE TSP 2022",
    weighs=True,
)
