"""Where the updates of a round lie: in a plane, with clusters and true labels.

A run does not keep updates; `commands.geometry` computes a round again and writes

    RUN/geometry/ROUND.json
        round
        explained    share of the variance along each of the two axes, from 0 to 1
        points       client, x, y, malicious (attacking in this round), excluded (weight
                     0 in the aggregate), cluster (0 or 1; -1 with fewer than three)
        left_out     clients whose update is not finite

which `reports.update_plane` draws.
"""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.ward_clusters import ward_labels
from fedjax_sim.numerics.distances import pairwise_distances
from fedjax_sim.runs.replay import Replayed


def project(found: Replayed) -> dict[str, Any]:
    """Projects the updates of a round on their first two principal components.

    The clusters are those of Ward linkage on the updates themselves, whatever the
    defence: the first stage of DROP.

    Returns:
      The fields above.

    Raises:
      InputError: fewer than three finite updates.
    """
    finite = np.isfinite(found.updates).all(1)
    if finite.sum() < 3:
        raise InputError(
            f"--round={found.round}: {finite.sum()} of {len(finite)} updates are "
            "finite; three are needed for a plane"
        )
    pca = PCA(n_components=2, svd_solver="full")
    places = pca.fit_transform(found.updates[finite])
    ids = found.client_ids[finite]
    everyone = np.ones(len(ids), bool)
    clusters = ward_labels(pairwise_distances(found.updates[finite]), everyone, ids)
    columns = (
        ids,
        *places.T,
        found.malicious[finite],
        found.excluded[finite],
        clusters,
    )
    names = ("client", "x", "y", "malicious", "excluded", "cluster")
    points = [
        dict(zip(names, values, strict=True))
        for values in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return {
        "round": found.round,
        "explained": pca.explained_variance_ratio_,
        "points": points,
        "left_out": found.client_ids[~finite],
    }
