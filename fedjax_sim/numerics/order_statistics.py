"""Order statistics per coordinate over the clients that still count.

Letters: `n` rows (clients), `k` columns (coordinates), `m` included rows.

Nearly everything here is one primitive, `mean_of_ranks`: the mean of the sorted values
of ranks start..stop-1 of each column. `jnp.sort` along the client axis is about a
hundred times slower than the memory on a CPU, so the primitive has two forms:

* up to 112 rows a Batcher odd-even merge network of minimum and maximum. XLA fuses
  the whole network into one loop over the columns that reads each value once;
* above, where the network no longer fits the registers and its compilation grows,
  a bisection on the bits of the values: 32 rounds of compare and count.

On 2 CPU cores the median of [25, 1e6] takes 7 ms (`jnp.median` 1365 ms), of
[100, 2e5] 20 ms (1514 ms).

The mean around the median looks at the sorted values once more, up to 64 rows in the
same loop: the network and the merge of 100 rows were not compiled in nine minutes.

Excluded rows may hold anything. A NaN in an included row makes its column NaN,
infinities are ordered like numbers, and without included rows the result is NaN.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics.columns import reduce_columns

# Rows up to which the network wins: 112 rows 11 ms, 128 rows 110 ms for 1e5 columns
# (registers spill), the bisection 48 and 54 ms.
_NETWORK_ROWS = 112

# Rows up to which the nearest values are found by networks too.
NEAREST_ROWS = 64

# Columns that the bisection treats at once on a CPU: [200, 256] floats stay in the
# L2 cache during the 32 rounds.
_BISECTION_COLUMNS = 256

_SIGN = np.uint32(1 << 31)

Even = Literal["midpoint", "lower"]


@compiled("even")
def median(rows: Array, mask: Array, even: Even = "midpoint") -> Array:
    """Returns the median f32 [k] of the included rows in each column.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      even: for an even number of rows the mean of the two middle values (midpoint),
        or the smaller of them (lower, as `torch.median`).
    """
    low, high = _middle(mask.sum(), even)
    return mean_of_ranks(rows, mask, low, high + 1)


def _middle(m: Array, even: Even) -> tuple[Array, Array]:
    """The first and the last rank of the median of `m` values."""
    low = (m - 1) // 2
    return low, low if even == "lower" else m // 2


@compiled()
def kth_smallest(rows: Array, mask: Array, rank: int | Array) -> Array:
    """Returns the value f32 [k] of `rank` (from 0) among the included rows.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      rank: i32 [], may be traced; clipped to 0..m-1.
    """
    rank = jnp.clip(rank, 0, mask.sum() - 1)
    return mean_of_ranks(rows, mask, rank, rank + 1)


@compiled()
def trimmed_mean(rows: Array, mask: Array, trim: int | Array) -> Array:
    """Returns the mean f32 [k] without the `trim` smallest and largest values.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      trim: i32 [], values dropped at each end, may be traced; clipped so that at
        least one value is left.
    """
    m = mask.sum()
    trim = jnp.clip(trim, 0, (m - 1) // 2)
    return mean_of_ranks(rows, mask, trim, m - trim)


@compiled("even")
def mean_around_median(
    rows: Array, mask: Array, count: int | Array, even: Even = "midpoint"
) -> Array:
    """Returns the mean f32 [k] of the `count` values nearest to the median.

    Values that tie for the last place share it.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      count: i32 [], may be traced; clipped to 1..m.
      even: see `median`.
    """
    count = jnp.clip(count, 1, jnp.maximum(mask.sum(), 1))
    reduce = _nearest_network if len(mask) <= NEAREST_ROWS else _nearest_by_ranks
    return lax.cond(  # see `mean_of_ranks`
        mask.any(),
        lambda: reduce(rows, mask, count, even),
        lambda: jnp.full(rows.shape[1:], jnp.nan, rows.dtype),
    )


@compiled()
def quantile(values: Array, mask: Array, q: float) -> Array:
    """Returns the quantile f32 [] of the included values, linearly interpolated.

    Args:
      values: f32 [n].
      mask: bool [n], the included values.
      q: between 0 and 1.
    """
    position = q * (mask.sum() - 1)
    low = jnp.floor(position)
    below, above = (
        kth_smallest(values[:, None], mask, rank.astype(jnp.int32))[0]
        for rank in (low, low + 1)
    )
    share = position - low
    return below + jnp.where(share > 0, share * (above - below), 0.0)


@compiled()
def largest(values: Array, count: int | Array) -> Array:
    """Returns bool [k]: the `count` largest values; ties go to the smaller index.

    Args:
      values: f32 [k].
      count: i32 [], 1 to k, may be traced.
    """
    every = jnp.ones(len(values), bool)
    last = kth_smallest(values[:, None], every, len(values) - count)
    above, tied = values > last, values == last
    return above | (tied & (jnp.cumsum(tied) <= count - above.sum()))


@compiled()
def mean_of_ranks(
    rows: Array, mask: Array, start: int | Array, stop: int | Array
) -> Array:
    """Returns the mean f32 [k] of the sorted included values of ranks start..stop-1.

    Only the values of those ranks are added up, so that huge extremes cost no
    precision; one or two values give the exact value and midpoint.

    Args:
      rows: f32 [n, k].
      mask: bool [n], the included rows.
      start: i32 [], first rank, from 0; may be traced.
      stop: i32 [], one past the last rank, start < stop <= m; may be traced.
    """
    reduce = _network if rows.shape[0] <= _NETWORK_ROWS else _bisection
    # Without the conditional XLA would copy the network into each consumer of its
    # result.
    return lax.cond(
        mask.any(),
        lambda: reduce(rows, mask, jnp.asarray(start), jnp.asarray(stop)),
        lambda: jnp.full(rows.shape[1:], jnp.nan, rows.dtype),
    )


@lru_cache
def _bitonic_merge(n: int) -> tuple[tuple[int, int], ...]:
    """Sorts n wires that fall and then rise (Knuth, TAOCP 3, 5.3.4)."""
    size = 1 << (n - 1).bit_length()
    steps = [size >> i for i in range(1, size.bit_length())]
    return tuple(
        (low, low + step)
        for step in steps
        for low in range(n)
        # Wires beyond n would hold infinity, and stay where they are.
        if not low & step and low + step < n
    )


@lru_cache
def _comparators(n: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort for n wires (Knuth, TAOCP 3, 5.2.2, Alg. M)."""
    pairs = []
    run = 1
    while run < n:
        step = run
        while step >= 1:
            for base in range(step % run, n - step, 2 * step):
                for low in range(base, min(base + step, n - step)):
                    if low // (2 * run) == (low + step) // (2 * run):
                        pairs.append((low, low + step))
            step //= 2
        run *= 2
    return tuple(pairs)


def _sorted_wires(rows: Array, mask: Array) -> list[Array]:
    """The values of all ranks, each [1, k]; behind the included ones infinity.

    Rows stay slices [1, k]: with a reshape to [k] between the network and the sum XLA
    cuts the network into pieces that repeat each other's work. A NaN on a wire comes
    out of both sides of each comparator and so reaches every rank.
    """
    wires = [jnp.where(mask[i], rows[i : i + 1], jnp.inf) for i in range(rows.shape[0])]
    _compare(wires, _comparators(rows.shape[0]))
    return wires


def _compare(wires: list[Array], pairs: Iterable[tuple[int, int]]) -> None:
    """Brings the wires of each pair into order."""
    for low, high in pairs:
        wires[low], wires[high] = (
            jnp.minimum(wires[low], wires[high]),
            jnp.maximum(wires[low], wires[high]),
        )


def _network(rows: Array, mask: Array, start: Array, stop: Array) -> Array:
    return _mean_of_wires(_sorted_wires(rows, mask), start, stop)[0]


def _mean_of_wires(wires: list[Array], start: Array, stop: Array) -> Array:
    # Scaled before the sum, which therefore cannot overflow.
    scale = 1.0 / (stop - start)
    total = jnp.zeros_like(wires[0])
    for rank, value in enumerate(wires):
        total += jnp.where((start <= rank) & (rank < stop), scale * value, 0.0)
    return total


def _nearest_network(rows: Array, mask: Array, count: Array, even: Even) -> Array:
    """`mean_around_median` as one loop over the columns, like `mean_of_ranks`."""
    return _nearest_wires(rows, mask, count, even)[0]


def nearest_and_ties(rows: Array, mask: Array, count: Array) -> tuple[Array, Array]:
    """Returns `mean_around_median` f32 [k], and where different values tie, bool [k].

    Only for at most `NEAREST_ROWS` rows, and with one that is included.
    """
    return _nearest_wires(rows, mask, count, "midpoint")


def _nearest_wires(
    rows: Array, mask: Array, count: Array, even: Even
) -> tuple[Array, Array]:
    m, wires = mask.sum(), _sorted_wires(rows, mask)
    low, high = _middle(m, even)
    middle = _mean_of_wires(wires, low, high + 1)
    gaps = [
        jnp.where(rank < m, jnp.abs(0.5 * value - 0.5 * middle), jnp.inf)
        for rank, value in enumerate(wires)
    ]
    ordered = list(gaps)  # they fall and then rise, which one merge brings into order
    _compare(ordered, _bitonic_merge(len(gaps)))
    last = _mean_of_wires(ordered, count - 1, count)
    zero, scale = jnp.zeros_like(middle), 1.0 / count
    nearer, num_nearer, tied, num_tied = zero, zero, zero, zero
    least, most = jnp.full_like(middle, jnp.inf), jnp.full_like(middle, -jnp.inf)
    for value, gap in zip(wires, gaps, strict=True):
        nearer += jnp.where(gap < last, scale * value, 0.0)
        num_nearer += jnp.where(gap < last, 1.0, 0.0)
        ties = gap == last
        tied += jnp.where(ties, scale * value, 0.0)
        num_tied += jnp.where(ties, 1.0, 0.0)
        least = jnp.minimum(least, jnp.where(ties, value, jnp.inf))
        most = jnp.maximum(most, jnp.where(ties, value, -jnp.inf))
    share = (count - num_nearer) / jnp.maximum(num_tied, 1.0)
    mean = jnp.where(jnp.isnan(middle), jnp.nan, nearer + share * tied)
    return mean[0], ((share < 1.0) & (least < most))[0]


def _nearest_by_ranks(rows: Array, mask: Array, count: Array, even: Even) -> Array:
    middle = median(rows, mask, even)
    gaps = jnp.abs(rows - middle[None])
    last = kth_smallest(gaps, mask, count - 1)[None]
    nearer = mask[:, None] & (gaps < last)
    tied = mask[:, None] & (gaps == last)
    share = (count - nearer.sum(0)) / jnp.maximum(tied.sum(0), 1)
    weights = jnp.where(nearer, 1.0, jnp.where(tied, share[None], 0.0)) / count
    mean = jnp.where(weights > 0, weights * rows, 0.0).sum(0)
    return jnp.where(jnp.isnan(middle), jnp.nan, mean)


def _bisection(rows: Array, mask: Array, start: Array, stop: Array) -> Array:
    def reduce(columns: Array) -> Array:
        return _bisect_columns(columns, mask, start, stop)

    return reduce_columns(reduce, rows, _BISECTION_COLUMNS)


def _bisect_columns(rows: Array, mask: Array, start: Array, stop: Array) -> Array:
    values = jnp.where(mask[:, None], rows, jnp.inf)
    keys = _ordered_bits(values)

    def key_of_rank(rank: Array) -> Array:
        def set_bit(i: Array, key: Array) -> Array:
            # The largest key with at most `rank` keys below it, from the top bit on.
            trial = key | (_SIGN >> i.astype(jnp.uint32))
            return jnp.where((keys < trial).sum(0, keepdims=True) <= rank, trial, key)

        return lax.fori_loop(0, 32, set_bit, jnp.zeros((1, rows.shape[1]), jnp.uint32))

    low = key_of_rank(start)
    high = lax.cond(stop == start + 1, lambda: low, lambda: key_of_rank(stop - 1))

    scale = 1.0 / (stop - start)
    from_low = jnp.minimum((keys <= low).sum(0, keepdims=True), stop) - start
    from_high = stop - (keys < high).sum(0, keepdims=True)
    inner = jnp.where((low < keys) & (keys < high), scale * values, 0.0)
    total = inner.sum(0, keepdims=True) + scale * from_low * _from_ordered_bits(low)
    total += jnp.where(low < high, scale * from_high * _from_ordered_bits(high), 0.0)
    return jnp.where(jnp.isnan(values).any(0), jnp.nan, total[0])


def _ordered_bits(values: Array) -> Array:
    """Returns u32 keys that compare as the floats do (-0 below +0)."""
    bits = lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits < _SIGN, bits | _SIGN, ~bits)


def _from_ordered_bits(keys: Array) -> Array:
    bits = jnp.where(keys < _SIGN, ~keys, keys ^ _SIGN)
    return lax.bitcast_convert_type(bits, jnp.float32)
