"""CAF, covariance-bound agnostic filter: outliers lose weight along the top direction.

Allouah, Guerraoui, Stephan, "Towards Trustworthy Federated Learning with Untrusted
Participants", ICML 2025, Algorithm 2 (m).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
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
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.common_part import centred_gram, half_offsets
from fedjax_sim.numerics.distances import finite

Variant = Literal["active", "paper", "byzfl"]

# Where one far client sets the scale for ever, the others shrink by less than float32
# can tell, and the filter would never end.
MAX_STEPS = 4096

# Differences between distances, relative to the largest, that rounding makes.
_NOISE = 2.0**-18


@checked("defense")
def caf(
    *, variant: Variant = "active", num_byzantine: Traced[Natural] | None = None
) -> Defense:
    """Returns the weighted mean whose covariance has the least top eigenvalue.

    All clients begin with weight c = 1. While the weights add up to more than n - 2f,
    each client's is multiplied by 1 - tau / max tau, tau its squared distance from the
    weighted mean along the top eigenvector. The mean of the step with the least top
    eigenvalue is taken, or the plain one with f = 0. n are the clients that count.
    Score: `caf_weight` f32 [n], the c of that step. "(m)" above: the number in the
    paper is from memory.

    Args:
      variant: of which clients the largest tau is taken: `active` of those with c > 0,
        so that every step removes one; `paper` of all, as byzfl documents it (an
        outlier x1000 makes 1014 steps of 4; ended after 4096). `byzfl` is the code of
        byzfl 0.0.11: `paper` with one power step from a Gaussian vector in place of
        the eigenvector.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).

    Raises:
      InputError: an option outside its range; by `init`, 2f clients or fewer.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 2, 1)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            def draw(step: Array) -> Array:
                key = jax.random.fold_in(context.key, step)
                return jax.random.normal(key, context.global_params.shape)

            result = filter_outliers(cohort, f, variant, draw)
            cohort = cohort._replace(weights=result.best)
            return with_score(cohort, "caf_weight", result.best)

        return pipeline(stateless(judge))

    return with_count(resolve, rule)


class Filtered(NamedTuple):
    """What the filter found."""

    best: Array  # f32 [n], c of the step with the least top eigenvalue
    last: Array  # f32 [n], c at the end
    eigenvalue: Array  # f32 [], of the best step; inf if there was no step
    best_step: Array  # i32 []
    steps: Array  # i32 []


def filter_outliers(
    cohort: Cohort, f: Array | int, variant: Variant, draw: Callable[[Array], Array]
) -> Filtered:
    """Returns the weights of the clients; 0 for those that do not count.

    Args:
      cohort: of n clients.
      f: i32 [], fewer than half of those that count are distrusted.
      variant: see `caf`.
      draw: `(step) -> f32 [d]`, the vectors of the variant `byzfl`.
    """
    mask = included(cohort)
    m = mask.sum()
    least = m - 2 * jnp.minimum(f, (m - 1) // 2)
    order = jnp.argsort(cohort.client_ids)
    products, units = centred_gram(cohort.updates, mask, order)
    rows = half_offsets(cohort.updates, mask, order)  # for the variant `byzfl`

    def step(carry: tuple) -> tuple:
        c, found, scale, _ = carry
        active = mask & (c > 0)
        judged = active if variant == "active" else mask
        # In units of the longest row that matters: its square is in float32.
        unit = jnp.where(judged & (jnp.diagonal(products) > 0), units, 0.0).max()
        unit = jnp.where(unit > 0, unit, 1.0)
        ratio = jnp.where(judged, units / unit, 0.0)
        shares = jnp.where(active, c, 0.0) / c.sum()
        around = _centred(products * ratio[:, None] * ratio[None, :], shares)
        if variant == "byzfl":
            start = draw(found.steps)
            start = start / jnp.linalg.norm(start)
            seen = ratio * ((rows / units[:, None]) @ start)
            pushed = shares * (seen - shares @ seen)
            along = around @ pushed
            value = jnp.sqrt(jnp.maximum(pushed @ along, 0.0))
        else:
            roots = jnp.sqrt(shares)
            matrix = roots[:, None] * around * roots[None, :]
            values, vectors = jnp.linalg.eigh(matrix)
            value = jnp.maximum(values[-1], 0.0)
            along = around @ (roots * vectors[:, -1])
        along = jnp.where(judged, jnp.abs(along), 0.0)
        largest = along.max()
        relative = along / jnp.where(largest > 0, largest, 1.0)
        # Whoever is farthest is left with nothing, also where x / x is not quite 1.
        relative = jnp.where(relative > 1.0 - _NOISE, 1.0, relative)
        shrunk = jnp.where(active, c * (1.0 - relative**2), 0.0)
        spread = (value > 0) & (largest > 0)
        # Eigenvalues of two steps are compared in squares of the larger unit.
        common = jnp.maximum(unit, scale)
        better = value * (unit / common) ** 2 < found.eigenvalue * (scale / common) ** 2
        better |= jnp.isinf(found.eigenvalue)
        found = Filtered(
            best=jnp.where(better, c, found.best),
            last=shrunk,
            eigenvalue=jnp.where(better, value, found.eigenvalue),
            best_step=jnp.where(better, found.steps, found.best_step),
            steps=found.steps + 1,
        )
        return shrunk, found, jnp.where(better, unit, scale), ~spread

    def goes_on(carry: tuple) -> Array:
        c, found, _, ended = carry
        return (c.sum() > least) & ~ended & (found.steps < MAX_STEPS)

    all_ = mask.astype(jnp.float32)
    none = Filtered(all_, all_, jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0))
    begin = all_, none, jnp.float32(1.0), jnp.bool_(False)
    _, found, scale, _ = lax.while_loop(goes_on, step, begin)
    # Four times: the rows are halves.
    value = finite(finite(4.0 * found.eigenvalue * scale) * scale)
    return found._replace(
        eigenvalue=jnp.where(found.steps > 0, value, jnp.inf),
        # Equal updates need no filter: nobody loses weight.
        last=jnp.where(found.steps > 0, found.last, all_),
    )


def _centred(products: Array, shares: Array) -> Array:
    """Returns the inner products f32 [n, n] around the mean with weights `shares`."""
    to_mean = products @ shares
    return products - to_mean[:, None] - to_mean[None, :] + shares @ to_mean


ENTRY = Entry(
    caf,
    paper="Allouah, Guerraoui, Stephan, ICML 2025",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
