"""The largest score along a line, with few evaluations of it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

Method = Literal["line_maximize", "byzfl"]

# A score must be so much better, relative to the best: under rules that clip or choose,
# many points have one score, and rounding would pick among them.
_IMPROVEMENT = 1e-5


class Search(NamedTuple):
    """Where a search stands."""

    best: Array  # f32 [], the point of the largest score
    score: Array  # f32 [], there
    last: Array  # f32 [], the point tried last
    step: Array  # f32 []
    expanding: Array  # bool [], no try has failed yet


def maximize(
    score: Callable[[Array], Array],
    *,
    evals: int,
    start: Array | float,
    step: Array | float,
    ratio: Array | float,
    method: Method,
) -> Search:
    """Returns where the search ends: steps double until one fails, then they shrink.

    Args:
      score: f32 [] of a point f32 [] from 0 on.
      evals: of the score, that of the start among them.
      start: point.
      step: first step; doubled after each success.
      ratio: by which steps shrink from the first failure on.
      method: what is tried then. `line_maximize` (El Mhamdi et al. 2021, public code):
        a step from the last point towards the best, or down from it. `byzfl` (0.0.11):
        always a step up from the best.
    """

    def propose(at: Search) -> Array:
        above = at.best + at.step
        if method == "byzfl":
            return above
        down = _down(at.last, at.step)
        inward = jnp.where(at.last < at.best, at.last + at.step, down)
        return jnp.where(at.expanding, above, inward)

    def tries(i: Array, at: Search) -> Search:
        del i
        point = propose(at)
        value = score(point)
        better = value > at.score + _IMPROVEMENT * jnp.abs(at.score)
        expanding = at.expanding & better
        return Search(
            best=jnp.where(better, point, at.best),
            score=jnp.where(better, value, at.score),
            last=point,
            step=at.step * jnp.where(expanding, 2.0, ratio),
            expanding=expanding,
        )

    first = jnp.float32(start)
    begin = Search(first, score(first), first, jnp.float32(step), jnp.bool_(True))
    return lax.fori_loop(1, evals, tries, begin)


def _down(point: Array, step: Array) -> Array:
    """point - step, halved towards the point until it is not negative."""
    return lax.while_loop(
        lambda x: x < 0,
        lambda x: 0.5 * (x + point),
        jnp.where(point > 0, point - step, 0),
    )
