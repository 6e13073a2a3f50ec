"""Two clusters of updates by Ward linkage: the first stage of DROP.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), section 4.1, eq. 5.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fedjax_sim.contracts.defense import (
    Cohort,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.numerics.common_part import close_pairs
from fedjax_sim.numerics.distances import distances_in
from fedjax_sim.numerics.ward import two_clusters

Linkage = Literal["device", "scipy"]


def ward_clusters(linkage: Linkage = "device", excludes: bool = True) -> Stage:
    """Returns the stage that excludes the smaller of two Ward clusters.

    Of two clusters of equal size the tighter one is benign (label 1). Fewer than
    three clients are not judged. The stage adds the scores `ward_label` (i32 [n]: 0,
    1, or -1 where nothing was clustered) and `suspicious` (bool [n]: the smaller
    cluster, and the clients that sent a NaN or Inf).

    Args:
      linkage: who clusters: the device itself, with the decisions of SciPy, or SciPy
        on the host. A program that calls the host is compiled at every start.
      excludes: False only says who is suspicious, for a stage behind.
    """
    label = {"device": ward_labels_on_device, "scipy": _on_host}

    def init(spec: FederationSpec) -> tuple[()]:
        del spec
        return ()

    def apply(
        state: tuple[()], cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], Cohort]:
        del context
        labels, suspicious = judged_by_ward(
            cohort.updates, included(cohort), cohort.client_ids, label[linkage]
        )
        # The released code fails on a NaN; no client should gain from sending one.
        suspicious |= cohort.scores.get("non_finite", False)
        cohort = with_score(cohort, "ward_label", labels)
        cohort = with_score(cohort, "suspicious", suspicious)
        return state, exclude(cohort, suspicious) if excludes else cohort

    return Stage(init, apply)


def judged_by_ward(
    updates: Array,
    mask: Array,
    client_ids: Array,
    label: Callable[[Array, Array, Array], Array] | None = None,
) -> tuple[Array, Array]:
    """Returns the labels i32 [n], and who is in the smaller cluster, bool [n].

    Args:
      updates: f32 [n, d].
      mask: bool [n], clients to cluster.
      client_ids: i32 [n], distinct.
      label: `ward_labels` of some kind; by default the device's.
    """
    order = jnp.argsort(client_ids)
    distances = distances_in(close_pairs(updates, mask, order), 1.0)
    labels = (label or ward_labels_on_device)(distances, mask, client_ids)
    benign = jnp.where((labels == 0).sum() > (labels == 1).sum(), 0, 1)
    return labels, (labels >= 0) & (labels != benign)


def _on_host(distances: Array, mask: Array, client_ids: Array) -> Array:
    shape = jax.ShapeDtypeStruct(mask.shape, jnp.int32)
    return jax.pure_callback(
        ward_labels, shape, distances, mask, client_ids, vmap_method="sequential"
    )


def ward_labels_on_device(distances: Array, mask: Array, client_ids: Array) -> Array:
    """Returns what `ward_labels` does, by the device; arguments as there."""
    last = jnp.iinfo(client_ids.dtype).max
    order = jnp.argsort(jnp.where(mask, client_ids, last), stable=True)
    labels = two_clusters(distances[order][:, order], mask[order])
    labels = jnp.where(mask.sum() < 3, -1, labels)
    return jnp.zeros_like(labels).at[order].set(labels)


def ward_labels(
    distances: ArrayLike, mask: ArrayLike, client_ids: ArrayLike
) -> np.ndarray:
    """Cuts the Ward tree of the included clients into two clusters, on the host.

    The last merge joins two nodes. Nodes are numbered clients first, in the order of
    their ids, then merges by height. Label 0 is the node with the larger number, the
    cluster that was completed last, label 1 the other.

    Args:
      distances: f32 [n, n], Euclidean; +inf counts as very far.
      mask: bool [n], clients to cluster.
      client_ids: i32 [n], distinct.

    Returns:
      i32 [n]: 0 or 1, or -1 for other clients and with fewer than three clients.
    """
    from scipy.cluster import hierarchy  # slow to import, and of no use before a round
    from scipy.spatial.distance import squareform

    distances, mask, ids = (np.asarray(a) for a in (distances, mask, client_ids))
    labels = np.full(len(mask), -1, np.int32)
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(ids[rows])]
    if len(rows) < 3:
        return labels
    # SciPy refuses NaN and Inf, and squares the distances in double precision.
    far = float(np.finfo(np.float32).max)
    chosen = np.nan_to_num(
        distances[np.ix_(rows, rows)].astype(np.float64), nan=far, posinf=far
    )
    tree = hierarchy.linkage(squareform(chosen, checks=False), "ward")
    labels[rows] = 1
    labels[rows[_members(tree, int(tree[-1, :2].max()))]] = 0
    return labels


def _members(tree: np.ndarray, node: int) -> list[int]:
    """Returns the points below `node` in a linkage matrix [points - 1, 4]."""
    num_points = len(tree) + 1
    members, open_nodes = [], [node]
    while open_nodes:
        node = open_nodes.pop()
        if node < num_points:
            members.append(node)
        else:
            open_nodes.extend(tree[node - num_points, :2].astype(int))
    return members
