"""DROplet: DROP without its distillation.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea, "DROP: Poison Dilution via Knowledge
Distillation for Federated Learning", 2025 (arXiv 2502.07011), sections 4.1 and 4.2.
"""

from collections.abc import Callable
from typing import Any, Literal

from jax import Array

from fedjax_sim.contracts.defense import Defense, Stage
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.clip_avg import clip_avg
from fedjax_sim.defenses.flame import flame
from fedjax_sim.defenses.foolsgold import foolsgold
from fedjax_sim.defenses.median import median
from fedjax_sim.defenses.multikrum import multikrum
from fedjax_sim.defenses.norm_bound import norm_bound
from fedjax_sim.defenses.parts.activity_monitor import (
    BlacklistThreshold,
    Penalty,
    Reward,
    TauB,
    activity_monitor,
)
from fedjax_sim.defenses.parts.pipeline import filtered, in_turn, pipeline
from fedjax_sim.defenses.parts.ward_clusters import Linkage, ward_clusters
from fedjax_sim.defenses.trimmed_mean import trimmed_mean

Base = Literal[
    "fedavg",
    "median",
    "trimmed_mean",
    "multikrum",
    "norm_bound",
    "flame",
    "foolsgold",
    "clip_avg",
]


@checked("defense")
def droplet(
    *,
    penalty: Penalty = 1.0,
    reward: Reward = 0.5,
    blacklist_threshold: BlacklistThreshold = None,
    tau_b: TauB = None,
    linkage: Linkage = "device",
    clustering: bool = True,
    monitoring: bool = True,
    base: Base = "fedavg",
) -> Defense:
    """Returns DROplet: Ward clusters, then penalties for the suspicious ones.

    See `ward_clusters` and `activity_monitor`.

    Args:
      penalty: of a suspicious client, added in each such round.
      reward: taken off the penalty in a clean round; None is as much as `penalty`.
      blacklist_threshold: a client whose penalty reaches it is banned and never sampled
        again; None bans nobody, as in all published settings.
      tau_b: a client is kept out of a round while it owes that much (Algorithm 1); None
        while it owes anything (section 4.2, the code).
      linkage: who clusters: the `device`, with the decisions of SciPy, or `scipy` on
        the host, for which the program is compiled anew at every start.
      clustering: exclude who is suspicious in this round; False leaves only what
        earlier rounds left behind, the monitoring.
      monitoring: exclude who owes a penalty; False leaves the clustering alone.
      base: what aggregates the clients that remain, under its own defaults.

    Raises:
      InputError: an option outside its range, or a ban without the monitoring.
    """
    stages = droplet_stages(
        penalty=penalty,
        reward=reward,
        blacklist_threshold=blacklist_threshold,
        tau_b=tau_b,
        linkage=linkage,
        clustering=clustering,
        monitoring=monitoring,
    )
    banned = None if blacklist_threshold is None else not_banned
    owed = owed_penalties if monitoring else None
    if base == "fedavg":
        return pipeline(*stages, eligible=banned, owed=owed)
    return filtered(in_turn(*stages), _BASES[base](), eligible=banned, owed=owed)


def droplet_stages(
    *,
    penalty: Penalty,
    reward: Reward,
    blacklist_threshold: BlacklistThreshold,
    tau_b: TauB,
    linkage: Linkage,
    clustering: bool,
    monitoring: bool,
) -> tuple[Stage, ...]:
    """The stages of DROplet, or one of the two alone; see `droplet`.

    Raises:
      InputError: a ban without the monitoring.
    """
    if not monitoring and blacklist_threshold is not None:
        raise InputError(
            f"config.defense.blacklist_threshold = {blacklist_threshold} needs "
            "config.defense.monitoring = True: penalties are what it bans for"
        )
    stages: tuple[Stage, ...] = ()
    if clustering or monitoring:
        stages = (ward_clusters(linkage, excludes=clustering),)
    if monitoring:
        monitor = activity_monitor(
            penalty=penalty,
            reward=reward,
            blacklist_threshold=blacklist_threshold,
            tau_b=tau_b,
            past_only=not clustering,
        )
        stages += (monitor,)
    return stages


_BASES: dict[str, Callable[[], Defense]] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "multikrum": multikrum,
    "norm_bound": norm_bound,
    "flame": flame,
    "foolsgold": foolsgold,
    "clip_avg": clip_avg,
}


def not_banned(state: Any) -> Array:
    """Returns bool [N]: clients below the threshold, from the state of a pipeline."""
    (_, activity), _ = state
    return ~activity.banned


def owed_penalties(state: Any) -> Array:
    """Returns the penalties f32 [N], from the state of a pipeline."""
    (_, activity), _ = state
    return activity.penalties


ENTRY = Entry(
    droplet,
    paper="Syros et al. 2025 (DROP), sections 4.1 and 4.2",
    weighs=True,
)
