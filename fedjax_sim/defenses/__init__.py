"""Defences: what a server does with the updates of a round.

`DEFENSES` is the table from the name that a config gives to the factory.
"""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.defenses.bulyan import bulyan
from fedjax_sim.defenses.bulyan_leadfl import bulyan_leadfl
from fedjax_sim.defenses.clip_avg import clip_avg
from fedjax_sim.defenses.crfl import crfl
from fedjax_sim.defenses.dnc import dnc
from fedjax_sim.defenses.drop.drop import drop
from fedjax_sim.defenses.drop.droplet import droplet
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.defenses.fedredefense import fedredefense
from fedjax_sim.defenses.finetune import finetune
from fedjax_sim.defenses.flame import flame
from fedjax_sim.defenses.flare import flare
from fedjax_sim.defenses.flcert import flcert
from fedjax_sim.defenses.fldetector import fldetector
from fedjax_sim.defenses.flip.flip import flip
from fedjax_sim.defenses.fltrust import fltrust
from fedjax_sim.defenses.foolsgold import foolsgold
from fedjax_sim.defenses.iqr_clip_avg import iqr_clip_avg
from fedjax_sim.defenses.iqr_filter import iqr_filter
from fedjax_sim.defenses.krum import krum
from fedjax_sim.defenses.median import median
from fedjax_sim.defenses.multikrum import multikrum
from fedjax_sim.defenses.norm_bound import norm_bound
from fedjax_sim.defenses.prodigy import prodigy
from fedjax_sim.defenses.random_aggregation import random_aggregation
from fedjax_sim.defenses.rlr import rlr
from fedjax_sim.defenses.sparsefed import sparsefed
from fedjax_sim.defenses.trimmed_mean import trimmed_mean


class DefenseEntry(NamedTuple):
    """A defence by name.

    Attributes:
      factory: takes keyword-only hyper-parameters and returns a `Defense`.
      paper: where the rule was published.
      oracle: what it is told by default that no real server could know, or "none".
      traced: numbers that a sweep varies without a new compilation.
    """

    factory: Callable[..., Defense]
    paper: str
    oracle: str
    traced: tuple[str, ...] = ()


_COUNT = "the number of malicious clients, unless num_byzantine is given"
_ROOT = "clean samples, taken from the training set"

DEFENSES: dict[str, DefenseEntry] = {
    "fedavg": DefenseEntry(
        factory=fedavg,
        paper="McMahan et al., AISTATS 2017",
        oracle="none",
    ),
    "median": DefenseEntry(
        factory=median,
        paper="Yin et al., ICML 2018",
        oracle="none",
    ),
    "trimmed_mean": DefenseEntry(
        factory=trimmed_mean,
        paper="Yin et al., ICML 2018",
        oracle=_COUNT,
        traced=("num_byzantine",),
    ),
    "norm_bound": DefenseEntry(
        factory=norm_bound,
        paper="Sun et al. 2019, arXiv 1911.07963",
        oracle="none; with bound=oracle the norms of the truly benign updates",
    ),
    "krum": DefenseEntry(
        factory=krum,
        paper="Blanchard et al., NeurIPS 2017",
        oracle=_COUNT,
        traced=("num_byzantine", "num_neighbors"),
    ),
    "multikrum": DefenseEntry(
        factory=multikrum,
        paper="Blanchard et al., NeurIPS 2017",
        oracle=_COUNT,
        traced=("num_byzantine",),
    ),
    "fedredefense": DefenseEntry(
        factory=fedredefense,
        paper="Xie, Fang, Gong, ICML 2024",
        oracle="none, and what its base is told",
        traced=("threshold", "lr_images", "lr_labels", "lr_rate", "initial_rate"),
    ),
    "flcert": DefenseEntry(
        factory=flcert,
        paper="Cao, Zhang, Jia, Gong, IEEE TIFS 2022",
        oracle="none",
    ),
    "flip": DefenseEntry(
        factory=flip,
        paper="K. Zhang et al., ICLR 2023",
        oracle="none",
        traced=("success", "max_size", "portion", "confidence"),
    ),
    "drop": DefenseEntry(
        factory=drop,
        paper="Syros et al. 2025 (DROP)",
        oracle="none",
        traced=("penalty", "reward"),
    ),
    "droplet": DefenseEntry(
        factory=droplet,
        paper="Syros et al. 2025 (DROP), sections 4.1 and 4.2",
        oracle="none",
        traced=("penalty", "reward", "blacklist_threshold"),
    ),
    "fltrust": DefenseEntry(
        factory=fltrust,
        paper="Cao et al., NDSS 2021",
        oracle=_ROOT,
    ),
    "foolsgold": DefenseEntry(
        factory=foolsgold,
        paper="Fung et al., RAID 2020",
        oracle="none",
    ),
    "flame": DefenseEntry(
        factory=flame,
        paper="Nguyen et al., USENIX Security 2022",
        oracle="none",
        traced=("noise_sigma",),
    ),
    "flare": DefenseEntry(
        factory=flare,
        paper="Wang et al., AsiaCCS 2022",
        oracle=_ROOT,
        traced=("temperature", "kernel_width"),
    ),
    "rlr": DefenseEntry(
        factory=rlr,
        paper="Ozdayi et al., AAAI 2021",
        oracle="none",
        traced=("threshold",),
    ),
    "random_aggregation": DefenseEntry(
        factory=random_aggregation,
        paper="released code of Syros et al. 2025 (DROP)",
        oracle="none",
    ),
    "finetune": DefenseEntry(
        factory=finetune,
        paper="released code of Syros et al. 2025 (DROP)",
        oracle=_ROOT,
    ),
    "iqr_filter": DefenseEntry(
        factory=iqr_filter,
        paper="article on backdoors in federated CIFAR-10",
        oracle="none",
        traced=("iqr_k",),
    ),
    "clip_avg": DefenseEntry(
        factory=clip_avg,
        paper="article on backdoors in federated CIFAR-10",
        oracle="none",
        traced=("clip_norm", "clip_decay", "lr"),
    ),
    "iqr_clip_avg": DefenseEntry(
        factory=iqr_clip_avg,
        paper="article on backdoors in federated CIFAR-10",
        oracle="none",
        traced=("clip_norm", "clip_decay", "lr", "iqr_k"),
    ),
    "bulyan": DefenseEntry(
        factory=bulyan,
        paper="El Mhamdi et al., ICML 2018",
        oracle=_COUNT,
        traced=("num_byzantine",),
    ),
    "bulyan_leadfl": DefenseEntry(
        factory=bulyan_leadfl,
        paper="released code of Zhu et al., ICML 2023 (LeadFL)",
        oracle="none",
    ),
    "sparsefed": DefenseEntry(
        factory=sparsefed,
        paper="Panda et al., AISTATS 2022",
        oracle="none",
        traced=("momentum", "clip_norm"),
    ),
    "prodigy": DefenseEntry(
        factory=prodigy,
        paper="Ergisi et al. 2025, arXiv 2509.09534",
        oracle=_COUNT,
        traced=("num_byzantine",),
    ),
    "dnc": DefenseEntry(
        factory=dnc,
        paper="Shejwalkar and Houmansadr, NDSS 2021",
        oracle=_COUNT,
        traced=("num_byzantine", "filter_fraction"),
    ),
    "crfl": DefenseEntry(
        factory=crfl,
        paper="Xie et al., ICML 2021",
        oracle="none",
        traced=("clip_start", "clip_slope", "clip_cap", "noise_sigma"),
    ),
    "fldetector": DefenseEntry(
        factory=fldetector,
        paper="Zhang et al., KDD 2022",
        oracle="none",
    ),
}
