"""HDBSCAN from a matrix of distances, for a static number of points.

Campello, Moulavi, Sander, "Density-Based Clustering Based on Hierarchical Density
Estimates", PAKDD 2013, as the package hdbscan computes it: mutual reachability, minimum
spanning tree, single linkage, condensed tree, excess of mass. Without a host callback,
so that it may be mapped and looped over.

Letters: `n` points; nodes 0..n-1 are the points, n..2n-2 the merges of the tree, each
later than its parts. A cluster has the number of the node at which it begins.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.core.compiled import compiled

# Farther than everything: a point that does not count.
_FAR = 3e38

# Density of points at distance 0; the differences of two of them must be a number.
_DENSEST = 2.0**100


class _Tree(NamedTuple):
    """Merges by distance."""

    parts: Array  # i32 [n - 1, 2], nodes that merge
    density: Array  # f32 [n - 1], 1 / distance
    below: Array  # bool [2n - 1, n], the points below a node


class _Condensed(NamedTuple):
    """The clusters of the tree."""

    begins: Array  # bool [2n - 1], a cluster begins at the node
    birth: Array  # f32 [2n - 1], density at which it does
    parent: Array  # i32 [2n - 1], the cluster it is split from
    left: Array  # f32 [n], density at which a point falls out of its last cluster
    home: Array  # i32 [n], that cluster


@compiled("min_cluster_size", "min_samples", "allow_single_cluster")
def hdbscan(
    distances: Array,
    mask: Array,
    *,
    min_cluster_size: int = 5,
    min_samples: int | None = None,
    allow_single_cluster: bool = False,
) -> Array:
    """Returns the clusters i32 [n], numbered by their first point; -1 is noise.

    Equal distances are taken in the order of the points.

    Args:
      distances: f32 [n, n], symmetric, not negative.
      mask: bool [n], points that count; the others are noise and change nothing.
      min_cluster_size: points that make a cluster, at least 2.
      min_samples: to how many others a point must be near to count as dense; None is
        `min_cluster_size`.
      allow_single_cluster: all points may be one cluster.
    """
    n = len(mask)
    if n == 1:
        return jnp.full(1, -1)
    # Points that do not count come last, so that they join one by one at the end.
    order = jnp.argsort(~mask, stable=True)
    counts = mask[order]
    both = counts[:, None] & counts[None, :]
    ordered = jnp.where(both, jnp.minimum(distances[order][:, order], _FAR / 2), _FAR)
    samples = min_cluster_size if min_samples is None else min_samples
    tree = _single_linkage(_reachability(ordered, counts, samples))
    condensed = _condense(tree, min_cluster_size)
    labels = _label(tree, condensed, allow_single_cluster)
    labels = jnp.where(counts, labels, -1)
    return _numbered(jnp.zeros_like(labels).at[order].set(labels))


def _reachability(distances: Array, counts: Array, samples: int) -> Array:
    """Mutual reachability f32 [n, n]."""
    place = jnp.clip(jnp.minimum(counts.sum() - 1, samples), 0)
    core = jnp.sort(distances, axis=1)[:, place]
    return jnp.maximum(jnp.maximum(core[:, None], core[None, :]), distances)


def _single_linkage(distances: Array) -> _Tree:
    """Prim's spanning tree from the first point, its edges merged by length."""
    n = len(distances)

    def grow(i: Array, carry: tuple) -> tuple:
        inside, near, source, edges, lengths = carry
        # Where only points at infinity are left, one of them is next all the same.
        new = jnp.where(inside, jnp.inf, near).argmin()
        edges = edges.at[i].set(jnp.stack([source[new], new]))
        lengths = lengths.at[i].set(near[new])
        closer = distances[new] < near
        near = jnp.where(closer, distances[new], near)
        source = jnp.where(closer, new, source)
        return inside.at[new].set(True), near, source, edges, lengths

    begin = (
        jnp.arange(n) == 0,
        distances[0],
        jnp.zeros(n, jnp.int32),
        jnp.zeros((n - 1, 2), jnp.int32),
        jnp.zeros(n - 1),
    )
    *_, edges, lengths = lax.fori_loop(0, n - 1, grow, begin)
    order = jnp.argsort(lengths, stable=True)
    edges, lengths = edges[order], lengths[order]

    def merge(i: Array, carry: tuple) -> tuple:
        top, parts, below = carry
        pair = top[edges[i]]
        joined = below[pair[0]] | below[pair[1]]
        top = jnp.where(joined, n + i, top)
        return top, parts.at[i].set(pair), below.at[n + i].set(joined)

    below = jnp.zeros((2 * n - 1, n), bool).at[:n].set(jnp.eye(n, dtype=bool))
    alone = jnp.arange(n), jnp.zeros((n - 1, 2), jnp.int32), below
    _, parts, below = lax.fori_loop(0, n - 1, merge, alone)
    density = jnp.minimum(1.0 / jnp.maximum(lengths, 1.0 / _DENSEST), _DENSEST)
    return _Tree(parts, jnp.where(lengths >= _FAR, 0.0, density), below)


def _condense(tree: _Tree, min_cluster_size: int) -> _Condensed:
    """From the root down: splits into two large parts begin two clusters."""
    nodes, n = tree.below.shape
    sizes = tree.below.sum(1)
    root = nodes - 1

    def split(i: Array, carry: tuple) -> tuple:
        cluster, found = carry
        node = root - i
        own, density = cluster[node], tree.density[node - n]
        parts = tree.parts[node - n]
        large = sizes[parts] >= min_cluster_size
        two = large.all()
        cluster = cluster.at[parts].set(jnp.where(two, parts, own))
        # The points of a small part leave here, unless the cluster has ended above.
        out = (tree.below[parts] & ~large[:, None]).any(0) & (found.home < 0)
        found = found._replace(
            begins=found.begins.at[parts].set(two),
            birth=found.birth.at[parts].set(jnp.where(two, density, 0.0)),
            parent=found.parent.at[parts].set(jnp.where(two, own, -1)),
            left=jnp.where(out, density, found.left),
            home=jnp.where(out, own, found.home),
        )
        return cluster, found

    first = jnp.arange(nodes) == root
    found = _Condensed(
        first,
        jnp.zeros(nodes),
        jnp.full(nodes, -1),
        jnp.zeros(n),
        jnp.full(n, -1),
    )
    whole = jnp.where(first, root, -1), found
    return lax.fori_loop(0, n - 1, split, whole)[1]


def _label(tree: _Tree, found: _Condensed, allow_single_cluster: bool) -> Array:
    """Returns for each point the cluster that is kept, i32 [n], or -1."""
    nodes, n = tree.below.shape
    root = nodes - 1
    own = found.home[None, :] == jnp.arange(nodes)[:, None]
    stability = jnp.where(own, found.left[None] - found.birth[:, None], 0.0).sum(1)
    sizes = tree.below.sum(1)
    children = found.begins & (found.parent >= 0)
    grown = jnp.where(children, found.birth - found.birth[found.parent], 0.0) * sizes
    stability = stability.at[jnp.where(children, found.parent, 0)].add(
        jnp.where(children, grown, 0.0)
    )

    def judge(node: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, kept = carry
        parts = children & (found.parent == node)
        total = jnp.where(parts, value, 0.0).sum()
        better = parts.any() & (total > value[node])
        value = value.at[node].set(jnp.where(better, total, value[node]))
        return value, kept.at[node].set(found.begins[node] & ~better)

    none = jnp.zeros(nodes, bool)
    _, kept = lax.fori_loop(n, nodes, judge, (stability, none))
    kept &= allow_single_cluster | (jnp.arange(nodes) != root)

    def descend(i: Array, labels: Array) -> Array:
        node = root - i
        free = tree.below[node] & (labels < 0) & kept[node]
        return jnp.where(free, node, labels)

    labels = lax.fori_loop(0, nodes - n, descend, jnp.full(n, -1))
    # Of a root that is kept, only the densest points are in the cluster.
    leaving = jnp.where(found.home == root, found.left, 0.0).max()
    splits = jnp.where(children & (found.parent == root), found.birth, 0.0).max()
    dense = found.left >= jnp.maximum(leaving, splits)
    return jnp.where(kept[root] & ~dense, -1, labels)


def _numbered(labels: Array) -> Array:
    """Numbers clusters from 0 by their first point."""
    n = len(labels)
    same = labels[:, None] == labels[None, :]
    first = same.argmax(1)
    begins = (first == jnp.arange(n)) & (labels >= 0)
    return jnp.where(labels >= 0, (jnp.cumsum(begins) - 1)[first], -1)
