"""Krum and Multi-Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 4 (Krum) and section 5
(Multi-Krum). The variant `authors` is what the released code of DROP computes under
that name (Syros et al. 2025, arXiv 2502.07011).
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array

from fedjax_sim.defenses.base import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    Stage,
    exclude,
    included,
    pipeline,
    with_score,
)
from fedjax_sim.distances import squared_distances
from fedjax_sim.errors import InputError, did_you_mean

Variant = Literal["paper", "authors"]


class MultiKrumState(NamedTuple):
    """What the selection resolved for its federation."""

    num_byzantine: Array  # i32 [], f; not read by the variant `authors`


def multikrum(
    *,
    variant: Variant = "paper",
    num_byzantine: int | None = None,
    num_selected: int | None = None,
    num_neighbors: int | None = None,
) -> Defense:
    """Returns Multi-Krum: the mean of the clients nearest to their neighbours.

    Krum is `num_selected=1`. Arguments and errors: see `multikrum_selection`.
    """
    return pipeline(
        multikrum_selection(
            variant=variant,
            num_byzantine=num_byzantine,
            num_selected=num_selected,
            num_neighbors=num_neighbors,
        )
    )


def multikrum_selection(
    *,
    variant: Variant = "paper",
    num_byzantine: int | None = None,
    num_selected: int | None = None,
    num_neighbors: int | None = None,
) -> Stage:
    """Returns the stage that keeps the m clients of the smallest Krum score.

    The score of a client is the sum of the distances to its k nearest others. With n
    the clients that still count, k = n - f - 2 and m = n - f (at least 1). The stage
    adds the scores f32 [n] as `krum_score`, +inf for excluded clients.

    Args:
      variant: `paper` takes squared Euclidean distances and f from the threat model;
        `authors` takes Euclidean distances and f = floor(n / 2).
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_selected: m in place of n - f.
      num_neighbors: k in place of n - f - 2.

    Raises:
      InputError: for an unknown variant or a num_byzantine that it would ignore; by
        `init`, for numbers that the cohort cannot meet, among them the paper's
        condition 2f + 2 < n wherever f is used.
    """
    if variant not in get_args(Variant):
        hint = did_you_mean(variant, get_args(Variant))
        raise InputError(f"multikrum: variant={variant!r}: {hint}")
    if variant == "authors" and num_byzantine is not None:
        raise InputError(
            f"multikrum: num_byzantine={num_byzantine} with variant='authors', which "
            "always takes half of the cohort; allowed: variant='paper', or none"
        )
    # With both counts given f plays no part, and its condition none either.
    f_matters = variant == "paper" and (num_selected is None or num_neighbors is None)

    def init(spec: FederationSpec) -> MultiKrumState:
        n = spec.cohort_size
        f = spec.expected_malicious if num_byzantine is None else num_byzantine
        _require_in_range("num_selected", num_selected, 1, n)
        _require_in_range("num_neighbors", num_neighbors, 1, n - 1)
        _require_in_range("num_byzantine", num_byzantine, 0, n)
        if f_matters and isinstance(f, int) and n < 2 * f + 3:
            raise InputError(
                f"multikrum: num_byzantine={f} in a cohort of {n} clients; allowed: "
                f"n >= 2 f + 3, that is at least {2 * f + 3} clients"
            )
        return MultiKrumState(jnp.asarray(f, jnp.int32))

    def apply(
        state: MultiKrumState, cohort: Cohort, context: RoundContext
    ) -> tuple[MultiKrumState, Cohort]:
        del context
        mask = included(cohort)
        n = mask.sum()
        f = state.num_byzantine if variant == "paper" else n // 2
        k = n - f - 2 if num_neighbors is None else num_neighbors
        m = n - f if num_selected is None else num_selected

        distances = squared_distances(cohort.updates)
        if variant == "authors":
            distances = jnp.sqrt(distances)
        scores = krum_scores(distances, mask, k)
        selected = lowest(scores, mask, cohort.client_ids, jnp.maximum(m, 1))
        return state, exclude(with_score(cohort, "krum_score", scores), ~selected)

    return Stage(init, apply)


def krum_scores(distances: Array, mask: Array, num_neighbors: int | Array) -> Array:
    """Returns the sum f32 [n] of the distances to the nearest other clients.

    Args:
      distances: f32 [n, n], plain or squared.
      mask: bool [n], clients that count; the others get +inf.
      num_neighbors: i32 [], clipped to 1..(number of other clients).
    """
    n = len(mask)
    others = mask[None, :] & ~jnp.eye(n, dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    num_neighbors = jnp.clip(num_neighbors, 1, jnp.maximum(mask.sum() - 1, 1))
    counted = jnp.arange(n)[None, :] < num_neighbors
    scores = jnp.where(counted, nearest, 0.0).sum(1)
    return jnp.where(mask, scores, jnp.inf)


def lowest(scores: Array, mask: Array, client_ids: Array, count: int | Array) -> Array:
    """Returns bool [n]: the `count` included clients of the lowest scores.

    Ties go to the smaller client id.

    Args:
      scores: f32 [n].
      mask: bool [n], clients that count.
      client_ids: i32 [n].
      count: i32 [].
    """
    order = jnp.lexsort((client_ids, scores, ~mask))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    return mask & (rank < count)


def _require_in_range(name: str, value: int | None, low: int, high: int) -> None:
    # A sweep may trace the numbers; only concrete ones can be checked.
    if isinstance(value, int) and not low <= value <= high:
        raise InputError(f"multikrum: {name}={value}; allowed: {low} to {high}")
