"""Krum and Multi-Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 4 (Krum) and section 5
(Multi-Krum). The variant `authors` is what the released code of DROP computes under
that name (Syros et al. 2025, arXiv 2502.07011).
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
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
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.building import byzantine_count
from fedjax_sim.defenses.parts.checks import check_choice, check_quorum, check_range
from fedjax_sim.numerics.distances import squared_distances

Variant = Literal["paper", "authors", "iterative"]


class MultiKrumState(NamedTuple):
    """What the selection resolved for its federation."""

    num_byzantine: Array  # i32 [], f; not read by the variant `authors`


def multikrum(
    *,
    variant: Variant = "paper",
    num_byzantine: int | None = None,
    num_selected: int | None = None,
    num_neighbors: int | None = None,
    whole_state: bool = False,
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
            whole_state=whole_state,
        )
    )


def multikrum_selection(
    *,
    variant: Variant = "paper",
    num_byzantine: int | None = None,
    num_selected: int | None = None,
    num_neighbors: int | None = None,
    whole_state: bool = False,
) -> Stage:
    """Returns the stage that keeps the m clients of the smallest Krum score.

    The score of a client is the sum of the distances to its k nearest others. With n
    the clients that still count, k = n - f - 2 and m = n - f (at least 1). The stage
    adds the scores f32 [n] as `krum_score`, +inf for excluded clients.

    Args:
      variant: `paper` takes squared Euclidean distances and f from the threat model;
        `authors` takes Euclidean distances and f = floor(n / 2); `iterative` is as
        `paper`, but selects n - 2f - 2 clients one after the other, each among those
        that are left (score `place`), as in the code of Shejwalkar and Houmansadr,
        NDSS 2021.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_selected: m in place of n - f.
      num_neighbors: k in place of n - f - 2.
      whole_state: distances over the running statistics of BatchNorm too (the code of
        LeadFL, Zhu, Roos, Chen, ICML 2023).

    Raises:
      InputError: for an unknown variant or a num_byzantine that it would ignore; by
        `init`, for numbers that the cohort cannot meet, among them the paper's
        condition 2f + 2 < n wherever f is used.
    """
    check_choice("variant", variant, Variant)
    if variant == "authors" and num_byzantine is not None:
        raise InputError(
            f"config.defense.num_byzantine = {num_byzantine} must be none: "
            "config.defense.variant = 'authors' always takes half of the cohort"
        )
    if variant == "iterative":
        for key, value in (
            ("num_selected", num_selected),
            ("num_neighbors", num_neighbors),
            ("whole_state", whole_state or None),
        ):
            if value is not None:
                raise InputError(
                    f"config.defense.{key} = {value} does not belong to "
                    "config.defense.variant = 'iterative', which takes both numbers "
                    "from num_byzantine and parameters alone"
                )
    # With both counts given f plays no part, and its condition none either.
    f_matters = variant != "authors" and (num_selected is None or num_neighbors is None)

    def init(spec: FederationSpec) -> MultiKrumState:
        n = spec.cohort_size
        f = byzantine_count(spec, num_byzantine)
        check_range("num_selected", num_selected, 1, n)
        check_range("num_neighbors", num_neighbors, 1, n - 1)
        check_range("num_byzantine", num_byzantine, 0, n)
        if f_matters:
            check_quorum(spec, f, 2, 3)
        return MultiKrumState(jnp.asarray(f, jnp.int32))

    def apply(
        state: MultiKrumState, cohort: Cohort, context: RoundContext
    ) -> tuple[MultiKrumState, Cohort]:
        if variant == "iterative":
            f = state.num_byzantine
            return state, iterated_krum(cohort, f, 2 * f + 2)
        n = included(cohort).sum()
        f = state.num_byzantine if variant == "paper" else n // 2
        k = n - f - 2 if num_neighbors is None else num_neighbors
        m = n - f if num_selected is None else num_selected
        squared = variant == "paper"
        cohort = with_krum_score(
            cohort, context, num_neighbors=k, squared=squared, whole_state=whole_state
        )
        return state, keep_lowest(cohort, "krum_score", jnp.maximum(m, 1))

    return Stage(init, apply)


def with_krum_score(
    cohort: Cohort,
    context: RoundContext,
    *,
    num_neighbors: int | Array,
    squared: bool = True,
    whole_state: bool = False,
) -> Cohort:
    """Adds the score `krum_score` f32 [n], from plain or squared distances.

    They are those of the parameters, with `whole_state` of the buffers too: of their
    changes, since float32 cannot tell large values apart.
    """
    distances = squared_distances(cohort.updates)
    if whole_state:
        changes = cohort.buffers - context.global_buffers[None]
        distances = distances + squared_distances(changes)
    distances = distances if squared else jnp.sqrt(distances)
    scores = krum_scores(distances, included(cohort), num_neighbors)
    return with_score(cohort, "krum_score", scores)


def keep_lowest(cohort: Cohort, score: str, count: int | Array) -> Cohort:
    """Keeps the `count` included clients of the lowest scores; see `ranks`."""
    mask = included(cohort)
    return exclude(
        cohort, ranks(cohort.scores[score], mask, cohort.client_ids) >= count
    )


def iterated_krum(
    cohort: Cohort, num_byzantine: Array, remaining: Array, with_itself: bool = False
) -> Cohort:
    """Lets Krum select clients in turn, each among those that are left.

    Adds the score `place` i32 [n]: in which turn, from 0; n if never.

    Args:
      cohort: of n clients.
      num_byzantine: i32 [], f; of r clients left r - f - 2 distances are summed.
      remaining: i32 [], clients to leave; at least one is selected.
      with_itself: one of the distances is that of a client to itself.
    """
    distances = squared_distances(cohort.updates)
    mask = included(cohort)
    n = len(mask)
    count = jnp.maximum(mask.sum() - remaining, 1)

    def select(i: Array, place: Array) -> Array:
        left = mask & (place == n)
        neighbors = jnp.maximum(left.sum() - num_byzantine - 2, 1) - with_itself
        scores = krum_scores(distances, left, neighbors, least=1 - with_itself)
        best = left & (ranks(scores, left, cohort.client_ids) == 0)
        return jnp.where(best & (i < count), i, place)

    place = lax.fori_loop(0, n, select, jnp.full(n, n))
    return exclude(with_score(cohort, "place", place), place == n)


def krum_scores(
    distances: Array, mask: Array, num_neighbors: int | Array, least: int = 1
) -> Array:
    """Returns the sum f32 [n] of the distances to the nearest other clients.

    Args:
      distances: f32 [n, n], plain or squared.
      mask: bool [n], clients that count; the others get +inf.
      num_neighbors: i32 [], clipped to least..(number of other clients).
      least: see above.
    """
    n = len(mask)
    others = mask[None, :] & ~jnp.eye(n, dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    num_neighbors = jnp.clip(num_neighbors, least, jnp.maximum(mask.sum() - 1, 1))
    counted = jnp.arange(n)[None, :] < num_neighbors
    scores = jnp.where(counted, nearest, 0.0).sum(1)
    return jnp.where(mask, scores, jnp.inf)


def ranks(scores: Array, mask: Array, client_ids: Array) -> Array:
    """Returns the places i32 [n] of the clients by score, from 0.

    Ties go to the smaller client id; clients that do not count come last.

    Args:
      scores: f32 [n].
      mask: bool [n], clients that count.
      client_ids: i32 [n].
    """
    order = jnp.lexsort((client_ids, scores, ~mask))
    return jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
