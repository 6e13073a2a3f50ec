"""LASA: sparse updates judged tensor by tensor.

Xu, Zhang, Hu, "Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive
Sparsified Model Aggregation", WACV 2025, Algorithm 1 (m).
"""

from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    RoundContext,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Fraction, NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import clip_factors, times
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import finite, in_float32, row_lengths
from fedjax_sim.numerics.flat import FlatLayout

Variant = Literal["paper", "authors", "flpoison"]


@checked("defense")
def lasa(
    *,
    variant: Variant = "paper",
    sparsity: Fraction = 0.3,
    norm_bound: Traced[NonNegative] = 2.0,
    sign_bound: Traced[NonNegative] = 1.0,
) -> Defense:
    """Returns for each tensor the mean of the clients whose part of it is ordinary.

    Updates are clipped to the median norm. Of a copy the smallest entries of the
    matrices and kernels are set to 0. A client's part of a tensor counts if the norm
    and the share of positive signs of that copy are no outliers among the clients: less
    than the bounds of standard deviations from the median; without any such client all
    count. The clipped updates are averaged, not the copies. Score: `tensors_kept` f32
    [n], the share of the tensors that count. "(m)" above: the number in the paper is
    from memory.

    Args:
      variant: `authors` averages the sparse copies and clips to the lower of the middle
        two norms, as their code; `flpoison` makes the copies of unclipped updates.
      sparsity: share of the entries of matrices and kernels that are set to 0.
      norm_bound: of the norms (1 for CIFAR-10 in the paper).
      sign_bound: of the signs.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        layout, mask = context.network.layout, included(cohort)
        lengths = row_lengths(cohort.updates)
        even: order_statistics.Even = "lower" if variant == "authors" else "midpoint"
        norms = in_float32(lengths)[:, None]
        limit = order_statistics.median(norms, mask, even)[0]
        clipped = times(clip_factors(lengths, limit), cohort.updates)
        source = cohort.updates if variant == "flpoison" else clipped
        sparse = sparsified(source, layout, sparsity)
        kept = ordinary_parts(sparse, mask, layout, norm_bound, sign_bound)
        cohort = cohort._replace(updates=sparse if variant == "authors" else clipped)
        cohort = with_score(cohort, "tensors_kept", kept.mean(0))
        return with_score(cohort, _KEPT, kept.T)

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        offsets = context.network.layout.offsets
        parts = []
        for i, (start, stop) in enumerate(pairwise(offsets)):
            weights = cohort.scores[_KEPT][:, i]
            weights = weights / jnp.maximum(weights.sum(), 1)
            parts.append(finite(weights @ cohort.updates[:, start:stop]))
        mask = included(cohort)
        buffers = (mask / jnp.maximum(mask.sum(), 1)) @ cohort.buffers
        return Aggregate(jnp.concatenate(parts), finite(buffers))

    inner = pipeline(stateless(judge), reduce=reduce)

    def aggregate(state, cohort, context):
        state, cohort, result = inner.aggregate(state, cohort, context)
        # The report takes one number of a client.
        reported = {key: x for key, x in cohort.scores.items() if key != _KEPT}
        return state, cohort._replace(scores=reported), result

    return inner._replace(aggregate=aggregate)


# Bool [n, tensors], what the stage tells the reduction.
_KEPT = "tensors"


def sparsified(rows: Array, layout: FlatLayout, sparsity: float) -> Array:
    """Returns rows f32 [n, d] without the smallest entries of matrices and kernels.

    Of all their D entries together those stay that exceed the floor(D (1 -
    sparsity))-th largest, which goes too; tensors of one axis stay.
    """
    spans = list(pairwise(layout.offsets))
    large = [len(shape) > 1 for shape in layout.shapes]
    chosen = [rows[:, a:b] for (a, b), own in zip(spans, large, strict=True) if own]
    if not chosen:
        return rows
    sizes = jnp.abs(jnp.concatenate(chosen, axis=1)).T
    total = len(sizes)
    rank = total - max(int(total * (1 - sparsity)), 1)
    every = jnp.ones(total, bool)
    threshold = order_statistics.kth_smallest(sizes, every, rank)[:, None]
    parts = [
        jnp.where(jnp.abs(rows[:, a:b]) > threshold, rows[:, a:b], 0.0)
        if own
        else rows[:, a:b]
        for (a, b), own in zip(spans, large, strict=True)
    ]
    return jnp.concatenate(parts, axis=1)


def ordinary_parts(
    rows: Array,
    mask: Array,
    layout: FlatLayout,
    norm_bound: float | Array,
    sign_bound: float | Array,
) -> Array:
    """Returns bool [tensors, n]: whose part of a tensor counts.

    Args:
      rows: f32 [n, d], sparse.
      mask: bool [n], clients that count.
      layout: of the tensors.
      norm_bound, sign_bound: see `lasa`.
    """
    norms, shares = [], []
    for start, stop in pairwise(layout.offsets):
        part = rows[:, start:stop]
        lengths = row_lengths(part)
        # In units of the longest: only ratios matter, and their squares are numbers.
        unit = jnp.where(mask & (lengths.norms > 0), lengths.units, 0.0).max()
        unit = jnp.where(unit > 0, unit, 1.0)
        norms.append(lengths.norms * (lengths.units / unit))
        signs = jnp.sign(part)
        nonzero = jnp.maximum(jnp.abs(signs).sum(1), 1)
        shares.append((1 + signs.sum(1) / nonzero) / 2)
    deviations = _deviations(jnp.stack(norms, 1), mask)
    kept = (deviations < norm_bound) & (
        _deviations(jnp.stack(shares, 1), mask) < sign_bound
    )
    kept &= mask[:, None]
    return jnp.where(kept.any(0, keepdims=True), kept, mask[:, None]).T


def _deviations(values: Array, mask: Array) -> Array:
    """Distances f32 [n, k] from the median, in standard deviations of each column."""
    middle = order_statistics.median(values, mask)[None]
    count = jnp.maximum(mask.sum(), 1)
    mean = jnp.where(mask[:, None], values, 0.0).sum(0, keepdims=True) / count
    squares = jnp.where(mask[:, None], jnp.square(values - mean), 0.0)
    std = jnp.sqrt(squares.sum(0, keepdims=True) / count)
    # Equal values, but for the rounding of their mean.
    even = (jnp.abs(values - middle) == 0) | (std <= 0)
    return jnp.where(even, 0.0, jnp.abs(values - middle) / jnp.where(even, 1.0, std))


ENTRY = Entry(
    lasa,
    paper="Xu, Zhang, Hu, WACV 2025",
)
