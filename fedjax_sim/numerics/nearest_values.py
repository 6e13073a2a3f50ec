"""In each coordinate the values nearest to a centre, ties by the order of the rows.

Letters: `n` rows (clients), `k` columns (coordinates).
"""

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.order_statistics import (
    NEAREST_ROWS,
    kth_smallest,
    median,
    nearest_and_ties,
)

# Rows up to which the loop over them is written out, so that it becomes one pass.
_WRITTEN_OUT = 112


# Columns in which values tie that are looked at once more together.
_TOGETHER = 256


@compiled()
def mean_near_median(
    rows: Array, mask: Array, count: int | Array, order: Array
) -> Array:
    """Returns the mean f32 [k] of the `count` included values nearest to the median.

    Up to 64 rows in one loop over the columns; those in which different values tie for
    the last places are done again. Arguments as of `mean_of_nearest`.
    """

    def exactly(columns: Array) -> Array:
        return mean_of_nearest(columns, mask, median(columns, mask), count, order)

    if len(mask) > NEAREST_ROWS:
        return exactly(rows)
    width = min(_TOGETHER, rows.shape[1])
    taken = jnp.clip(count, 1, jnp.maximum(mask.sum(), 1))
    found, ties = lax.cond(
        mask.any(),
        lambda: nearest_and_ties(rows, mask, taken),
        lambda: (jnp.zeros(rows.shape[1]), jnp.zeros(rows.shape[1], bool)),
    )

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, ties = carry
        places = jnp.nonzero(ties, size=width, fill_value=rows.shape[1])[0]
        own = exactly(jnp.take(rows, places, axis=1, mode="clip"))
        return (
            found.at[places].set(own),
            ties.at[places].set(False),
        )

    return lax.while_loop(lambda carry: carry[1].any(), again, (found, ties))[0]


@compiled()
def mean_of_nearest(
    rows: Array, mask: Array, centre: Array, count: int | Array, order: Array
) -> Array:
    """Returns the mean f32 [k] of the `count` included values nearest to the centre.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      centre: f32 [k].
      count: i32 [], may be traced; at least 1 is taken.
      order: i32 [n], rows from the first to the last: of equally near values that do
        not all have a place, those of the first rows are taken.
    """
    count = jnp.clip(count, 1, jnp.maximum(mask.sum(), 1))
    # Halves: a difference of two numbers of float32 may exceed it.
    gaps = jnp.abs(0.5 * rows - 0.5 * centre[None])
    last = kth_smallest(gaps, mask, count - 1)
    nearer = (mask[:, None] & (gaps < last[None])).sum(0)

    def add(i: int | Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, taken = carry
        row, counts = order[i], mask[order[i]]
        gap = jnp.abs(0.5 * rows[row] - 0.5 * centre)
        tied = counts & (gap == last)
        chosen = (counts & (gap < last)) | (tied & (nearer + taken < count))
        # Scaled before the sum, which therefore cannot overflow.
        total += jnp.where(chosen, rows[row] / count, 0.0)
        return total, taken + tied

    carry = jnp.zeros_like(centre), jnp.zeros(centre.shape, jnp.int32)
    if len(mask) > _WRITTEN_OUT:
        return lax.fori_loop(0, len(mask), add, carry)[0]
    for i in range(len(mask)):
        carry = add(i, carry)
    return carry[0]
