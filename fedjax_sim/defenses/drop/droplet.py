"""DROplet: DROP without its distillation.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), sections 4.1 and 4.2.
"""

from typing import Any

from jax import Array

from fedjax_sim.contracts.defense import Defense, pipeline
from fedjax_sim.defenses.drop.activity_monitor import activity_monitor
from fedjax_sim.defenses.drop.ward_clusters import ward_clusters


def droplet(
    *,
    penalty: float = 1.0,
    reward: float | None = 0.5,
    blacklist_threshold: float | None = None,
) -> Defense:
    """Returns DROplet: Ward clusters, then penalties for the suspicious ones.

    Clients that reach `blacklist_threshold` are never sampled again. Arguments and
    errors: see `activity_monitor`.
    """
    return pipeline(
        ward_clusters(),
        activity_monitor(
            penalty=penalty, reward=reward, blacklist_threshold=blacklist_threshold
        ),
        eligible=None if blacklist_threshold is None else not_banned,
    )


def not_banned(state: Any) -> Array:
    """Returns bool [N]: clients below the threshold, from the state of a pipeline."""
    (_, activity), _ = state
    return ~activity.banned
