"""DnC (divide and conquer): outliers along the top singular vector.

Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning
Attacks and Defenses for Federated Learning", NDSS 2021, section V, Algorithm 2.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Count, Natural, NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import ranks
from fedjax_sim.numerics.distances import finite
from fedjax_sim.numerics.gram import gram, row_units

# Differences of scores, relative to the largest, that the rounding of float32 makes.
_NOISE = 2.0**-20


@checked("defense")
def dnc(
    *,
    num_byzantine: Traced[Natural] | None = None,
    num_iterations: Count = 1,
    num_coordinates: Count = 10_000,
    filter_fraction: Traced[NonNegative] = 1.0,
) -> Defense:
    """Returns DnC: the mean of the clients that no iteration removed.

    Each iteration looks at random coordinates and removes the floor(c f) clients of
    the largest squared projection on the top singular vector of the centred updates.
    Score: `outlier_score` f32 [n], the last iteration's. Where the iterations together
    removed everybody, the last one decides.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_iterations: random choices of coordinates that may each remove clients.
      num_coordinates: b, of an iteration; more than there are means all.
      filter_fraction: c, clients that an iteration removes for each Byzantine one; one
        client always stays.

    Raises:
      InputError: an option outside its range; by `init`, a num_byzantine of all.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size - 1)
        return byzantine_count(spec, num_byzantine)

    def rule(f: Array) -> Defense:
        removed = jnp.floor(filter_fraction * f).astype(jnp.int32)

        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            d = cohort.updates.shape[1]
            size = min(num_coordinates, d)

            def draw(key: Array) -> Array:
                if size == d:
                    return jnp.arange(d)
                return jax.random.choice(key, d, (size,), replace=False)

            keys = jax.random.split(context.key, num_iterations)
            return keep_inliers(cohort, jax.vmap(draw)(keys), removed)

        return pipeline(stateless(judge))

    return with_count(resolve, rule)


def keep_inliers(cohort: Cohort, coordinates: Array, removed: Array | int) -> Cohort:
    """Excludes the clients that any iteration removed.

    Args:
      cohort: of n clients.
      coordinates: i32 [iterations, b].
      removed: i32 [], clients that an iteration removes; one is always left.
    """
    mask = included(cohort)
    count = jnp.maximum(mask.sum() - removed, 1)

    def iterate(chosen: Array) -> tuple[Array, Array]:
        scores, unit = outlier_scores(cohort.updates[:, chosen], mask)
        return finite(scores * unit * unit), mask & (
            ranks(scores, mask, cohort.client_ids) < count
        )

    scores, kept = lax.map(iterate, coordinates)
    inliers = kept.all(0)
    inliers = jnp.where(inliers.any(), inliers, kept[-1])
    return exclude(with_score(cohort, "outlier_score", scores[-1]), ~inliers)


@compiled()
def outlier_scores(rows: Array, mask: Array) -> tuple[Array, Array]:
    """Returns the squared projections on the top singular vector, and their unit.

    The scores f32 [n] are in squares of the unit f32 [], a power of two near the
    largest entry: those of one huge row alone would exceed float32.

    Args:
      rows: f32 [n, b].
      mask: bool [n], rows that are centred and decomposed; the others get 0.
    """
    unit = jnp.where(mask & rows.any(1), row_units(rows), 0.0).max()
    unit = jnp.where(unit > 0, unit, 1.0)
    rows = jnp.where(mask[:, None], rows / unit, 0.0)
    centred = rows
    for _ in range(2):  # what is left of a large common part is its rounding error
        centre = centred.sum(0) / jnp.maximum(mask.sum(), 1)
        centred = jnp.where(mask[:, None], centred - centre[None], 0.0)
    # X v = sqrt(lambda) q for the top eigenpair of X X^T.
    values, vectors = jnp.linalg.eigh(gram(centred))
    scores = vectors[:, -1] ** 2 * jnp.maximum(values[-1], 0.0)
    return _without_noise(jnp.where(mask, scores, 0.0)), unit


def _without_noise(scores: Array) -> Array:
    """Returns scores f32 [n] in which those closer than rounding errors are equal.

    Beside a huge update all others are as good as 0: their order must not be noise.
    """
    order = jnp.argsort(scores)
    rising = scores[order]
    steps = jnp.diff(rising, prepend=-jnp.inf) > _NOISE * rising[-1]
    return scores.at[order].set(lax.cummax(jnp.where(steps, rising, 0.0)))


ENTRY = Entry(
    dnc,
    paper="Shejwalkar and Houmansadr, NDSS 2021",
    oracle="the number of malicious clients, unless num_byzantine is given",
    weighs=True,
)
