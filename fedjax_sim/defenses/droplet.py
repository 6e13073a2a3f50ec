"""DROplet: DROP without its distillation.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), sections 4.1 and 4.2.
"""

from typing import Any

from jax import Array

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.parts.activity_monitor import (
    BlacklistThreshold,
    Penalty,
    Reward,
    activity_monitor,
)
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ward_clusters import Linkage, ward_clusters


@checked("defense")
def droplet(
    *,
    penalty: Penalty = 1.0,
    reward: Reward = 0.5,
    blacklist_threshold: BlacklistThreshold = None,
    linkage: Linkage = "device",
) -> Defense:
    """Returns DROplet: Ward clusters, then penalties for the suspicious ones.

    See `ward_clusters` and `activity_monitor`.

    Args:
      penalty: of a suspicious client, added in each such round.
      reward: taken off the penalty in a clean round; None is as much as `penalty`.
      blacklist_threshold: a client whose penalty reaches it is banned and never sampled
        again; None bans nobody, as in all published settings.
      linkage: who clusters: the `device`, with the decisions of SciPy, or `scipy` on
        the host, for which the program is compiled anew at every start.

    Raises:
      InputError: an option outside its range.
    """
    return pipeline(
        ward_clusters(linkage),
        activity_monitor(
            penalty=penalty, reward=reward, blacklist_threshold=blacklist_threshold
        ),
        eligible=None if blacklist_threshold is None else not_banned,
    )


def not_banned(state: Any) -> Array:
    """Returns bool [N]: clients below the threshold, from the state of a pipeline."""
    (_, activity), _ = state
    return ~activity.banned


ENTRY = Entry(
    droplet,
    paper="Syros et al. 2025 (DROP), sections 4.1 and 4.2",
    weighs=True,
)
