"""Ward linkage on the device, with SciPy's decisions.

Ward, "Hierarchical grouping to optimize an objective function", JASA 1963. Distances to
a merged cluster: Lance and Williams, "A general theory of classificatory sorting
strategies", The Computer Journal 1967. Clusters are found by a chain of nearest
neighbours, as in `scipy.cluster.hierarchy.linkage` (Müllner, "Modern hierarchical,
agglomerative clustering algorithms", arXiv 1109.2378, section 3.2), where the last bits
of double precision break ties: these are computed here (`binary64`).

Letters: `n` points.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.core.compiled import compiled
from fedjax_sim.numerics import binary64
from fedjax_sim.numerics.binary64 import Double
from fedjax_sim.numerics.distances import LARGEST

_LAST = np.uint32(0xFFFFFFFF)  # above every double


class _Search(NamedTuple):
    """Clusters so far, and a chain of which each is the nearest to the one before.

    A cluster stands in the row of one of its points; `sizes` of the other rows are 0.
    """

    distances: Double  # [n, n]
    sizes: Array  # i32 [n]
    chain: Array  # i32 [n + 1], the first `length` count
    length: Array  # i32 []
    merges: Array  # i32 []
    pairs: Array  # i32 [n, 2], the rows of each merge
    heights: Double  # [n], of each merge


@compiled()
def two_clusters(distances: Array, mask: Array) -> Array:
    """Cuts the Ward tree of the points of `mask` into two clusters.

    Label 0 is the cluster whose node has the larger number, nodes being numbered points
    first, then merges by height; label 1 is the other.

    Args:
      distances: f32 [n, n], Euclidean and symmetric; NaN and +inf count as the largest
        number of float32.
      mask: bool [n], points to cluster.

    Returns:
      i32 [n]: 0 or 1, or -1 for other points and with fewer than two points.
    """
    found = _search(distances, mask)
    n, points = len(mask), mask.sum()
    # Stable, as merges of one height keep their order.
    *_, order = lax.sort(
        (*found.heights, jnp.arange(n)), num_keys=2, is_stable=True, dimension=0
    )
    pairs = found.pairs[order]
    # Of the clustered points only, in their order, the numbers are 0, 1, ...
    nodes = jnp.cumsum(mask) - 1

    def merge(i: Array, nodes: Array) -> Array:
        one, other = nodes[pairs[i, 0]], nodes[pairs[i, 1]]
        return jnp.where((nodes == one) | (nodes == other), points + i, nodes)

    nodes = lax.fori_loop(0, jnp.maximum(points - 2, 0), merge, nodes)
    last = pairs[jnp.maximum(points - 2, 0)]
    labels = (nodes != jnp.maximum(nodes[last[0]], nodes[last[1]])).astype(jnp.int32)
    return jnp.where(mask & (points >= 2), labels, -1)


def _search(distances: Array, mask: Array) -> _Search:
    """All merges, in the order in which the chain finds them."""
    n = len(mask)
    finite = jnp.where(jnp.isfinite(distances), distances, LARGEST)
    none = jnp.full(n, _LAST)
    first = _Search(
        binary64.of_float32(finite),
        mask.astype(jnp.int32),
        jnp.zeros(n + 1, jnp.int32),
        jnp.int32(0),
        jnp.int32(0),
        jnp.zeros((n, 2), jnp.int32),
        Double(none, none),
    )
    wanted = jnp.maximum(mask.sum() - 1, 0)
    return lax.while_loop(lambda s: s.merges < wanted, _advance, first)


def _advance(search: _Search) -> _Search:
    """Makes the chain longer by one, or joins its last two clusters."""
    n = len(search.sizes)
    length, chain = search.length, search.chain
    opened = chain.at[0].set((search.sizes > 0).argmax().astype(jnp.int32))
    chain = jnp.where(length == 0, opened, chain)
    length = jnp.maximum(length, 1)
    here, before = chain[length - 1], chain[jnp.maximum(length - 2, 0)]
    # The nearest one, of several the first, and before them the one it came from.
    others = (search.sizes > 0) & (jnp.arange(n) != here)
    row = Double(*(words[here] for words in search.distances))
    high = jnp.where(others, row.high, _LAST)
    least = high == high.min()
    low = jnp.where(least, row.low, _LAST)
    nearest = (least & (low == low.min()) & others).argmax().astype(jnp.int32)
    back = Double(row.high[before], row.low[before])
    height = Double(row.high[nearest], row.low[nearest])
    mutual = (length > 1) & ~binary64.less(height, back)

    def join(search: _Search) -> _Search:
        return _joined(search, jnp.minimum(here, before), jnp.maximum(here, before))

    def extend(search: _Search) -> _Search:
        return search._replace(chain=chain.at[length].set(nearest), length=length + 1)

    return lax.cond(mutual, join, extend, search._replace(chain=chain, length=length))


def _joined(search: _Search, x: Array, y: Array) -> _Search:
    """Joins two clusters; what comes of them stands in row y."""
    sizes, k = search.sizes, search.merges
    to_x, to_y = (Double(*(words[i] for words in search.distances)) for i in (x, y))
    height = Double(to_x.high[y], to_x.low[y])
    merged = _to_merged(to_x, to_y, height, sizes[x], sizes[y], sizes)
    distances = Double(
        *(
            words.at[y, :].set(new).at[:, y].set(new)
            for words, new in zip(search.distances, merged, strict=True)
        )
    )
    return search._replace(
        distances=distances,
        sizes=sizes.at[y].add(sizes[x]).at[x].set(0),
        length=search.length - 2,
        merges=k + 1,
        pairs=search.pairs.at[k].set(jnp.stack([x, y])),
        heights=Double(
            search.heights.high.at[k].set(height.high),
            search.heights.low.at[k].set(height.low),
        ),
    )


def _to_merged(
    to_x: Double, to_y: Double, xy: Double, nx: Array, ny: Array, sizes: Array
) -> Double:
    """Distances [n] to the union of two clusters, operation by operation as SciPy's.

    sqrt((ni + nx) t dx^2 + (ni + ny) t dy^2 - ni t dxy^2) with t = 1 / (ni + nx + ny).
    """
    n = len(sizes)
    numbers = np.arange(n + 1, dtype=np.float64)
    whole = binary64.of_host(numbers)
    inverse = binary64.of_host(1.0 / np.maximum(numbers, 1.0))
    at = lambda table, i: Double(*(words[jnp.minimum(i, n)] for words in table))
    share = at(inverse, sizes + nx + ny)

    def term(arguments: tuple[Array, Double]) -> Double:
        count, distance = arguments
        weight = binary64.multiply(at(whole, count), share)
        return binary64.multiply(binary64.multiply(weight, distance), distance)

    # A loop, so that it is compiled once, and what it gives is computed once.
    counts = jnp.stack([sizes + nx, sizes + ny, sizes])
    own = Double(*(jnp.broadcast_to(word, (n,)) for word in xy))
    distances = Double(*map(jnp.stack, zip(to_x, to_y, own, strict=True)))
    terms = lax.map(term, (counts, distances))
    first, second, third = (Double(*(word[i] for word in terms)) for i in range(3))
    return binary64.square_root(binary64.subtract(binary64.add(first, second), third))
