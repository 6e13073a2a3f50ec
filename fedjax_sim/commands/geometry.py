"""Where the updates of a round lie: in a plane, with clusters and true labels.

A run does not keep updates; `launch/geometry.py` computes a round again and writes

    RUN/geometry/ROUND.json
        round
        explained    share of the variance along each of the two axes, from 0 to 1
        points       client, x, y, malicious (attacking in this round), excluded (weight
                     0 in the aggregate), cluster (0 or 1; -1 with fewer than three)
        left_out     clients whose update is not finite

which `launch/report.py` draws.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from sklearn.decomposition import PCA

from fedjax_sim.commands.flags import run_command
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.drop.ward_clusters import ward_labels
from fedjax_sim.numerics.distances import pairwise_distances
from fedjax_sim.runs.directory import write_json
from fedjax_sim.runs.replay import Replayed, replay

USAGE = "usage: geometry.py --run=DIR [--round=ROUND]"


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


def make_flags() -> flags.FlagValues:
    """The flags of `launch/geometry.py`."""
    values = flags.FlagValues()
    flags.DEFINE_string("run", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_integer(
        "round", None, "From 1; by default the last one.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_project, argv, make_flags(), USAGE, ["run"], configurable=False)


def _project(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    workdir = Path(values.run)
    found = project(replay(workdir, values.round))
    path = workdir / "geometry" / f"{found['round']}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)
    print(text_table(list(found["points"][0]), found["points"]))
    shares = " and ".join(f"{100 * share:.0f} %" for share in found["explained"])
    print(f"round {found['round']}: {shares} of the variance; written: {path}")
    return 0
