"""The attacks, by name."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_sim.attacks.adaptive_label_flip import (
    adaptive_label_flip,
    adaptive_targeted_label_flip,
)
from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.block_backdoor import block_backdoor
from fedjax_sim.attacks.chameleon import chameleon
from fedjax_sim.attacks.dba import dba
from fedjax_sim.attacks.fang import fang
from fedjax_sim.attacks.fang_krum import fang_krum
from fedjax_sim.attacks.gaussian import gaussian
from fedjax_sim.attacks.ipm import ipm
from fedjax_sim.attacks.label_flip import label_flip
from fedjax_sim.attacks.leadfl_backdoor import leadfl_backdoor
from fedjax_sim.attacks.lie import lie
from fedjax_sim.attacks.min_max import min_max
from fedjax_sim.attacks.min_sum import min_sum
from fedjax_sim.attacks.mislabelled_images import mislabelled_images
from fedjax_sim.attacks.mpaf import mpaf
from fedjax_sim.attacks.neurotoxin import neurotoxin
from fedjax_sim.attacks.poisonedfl import poisonedfl
from fedjax_sim.attacks.scaling import scaling
from fedjax_sim.attacks.sign_flip import sign_flip
from fedjax_sim.attacks.targeted_label_flip import targeted_label_flip
from fedjax_sim.contracts.attack import Attack


class AttackEntry(NamedTuple):
    """A registered attack: its factory and where it was published."""

    factory: Callable[..., Attack]
    paper: str
    traced: tuple[str, ...] = ()  # numbers that vary without a new compilation


def none() -> Attack:
    """No attack: the malicious clients do all that the benign ones do."""
    return Attack(knowledge=(), active=lambda round_index: jnp.bool_(False))


ATTACKS: dict[str, AttackEntry] = {
    "none": AttackEntry(none, "-"),
    "backdoor": AttackEntry(
        backdoor,
        "Gu et al. 2017; Chen et al. 2017; Syros et al. 2025 (DROP), 2.2",
        ("dpr",),
    ),
    "adaptive_label_flip": AttackEntry(
        adaptive_label_flip, "Xie, Fang, Gong, ICML 2024, Algorithm 3"
    ),
    "adaptive_targeted_label_flip": AttackEntry(
        adaptive_targeted_label_flip, "Xie, Fang, Gong, ICML 2024, Algorithm 3"
    ),
    "block_backdoor": AttackEntry(block_backdoor, "IQR / Clip-Avg article", ("boost",)),
    "chameleon": AttackEntry(
        chameleon,
        "Dai, Li, ICML 2023",
        (
            "contrastive_lr",
            "contrastive_momentum",
            "contrastive_weight_decay",
            "lr_decay",
            "temperature",
            "scale_weight",
            "dpr",
        ),
    ),
    "dba": AttackEntry(dba, "Xie et al., ICLR 2020; Xie et al., ICML 2024", ("scale",)),
    "fang": AttackEntry(fang, "Fang et al., USENIX Security 2020"),
    "fang_krum": AttackEntry(fang_krum, "Fang et al., USENIX Security 2020"),
    "gaussian": AttackEntry(gaussian, "Blanchard et al., NeurIPS 2017", ("std",)),
    "ipm": AttackEntry(ipm, "Xie, Koyejo, Gupta, UAI 2019", ("epsilon",)),
    "label_flip": AttackEntry(label_flip, "Fung et al. 2018"),
    "leadfl_backdoor": AttackEntry(
        leadfl_backdoor, "Zhu et al. (LeadFL), ICML 2023; Sun et al., NeurIPS 2021"
    ),
    "lie": AttackEntry(lie, "Baruch et al., NeurIPS 2019", ("z",)),
    "min_max": AttackEntry(min_max, "Shejwalkar, Houmansadr, NDSS 2021"),
    "min_sum": AttackEntry(min_sum, "Shejwalkar, Houmansadr, NDSS 2021"),
    "mislabelled_images": AttackEntry(
        mislabelled_images, "Bhagoji et al., ICML 2019; Sun et al., NeurIPS 2021 (code)"
    ),
    "mpaf": AttackEntry(mpaf, "Cao, Gong, CVPR Workshops 2022", ("scale",)),
    "neurotoxin": AttackEntry(
        neurotoxin, "Zhang et al., ICML 2022", ("top_k", "norm_bound", "dpr")
    ),
    "poisonedfl": AttackEntry(
        poisonedfl,
        "Xie, Fang, Gong, CVPR 2025",
        ("initial_scale", "decay", "min_scale", "noise_scale", "flip_probability"),
    ),
    "scaling": AttackEntry(
        scaling, "Bagdasaryan et al., AISTATS 2020; Xie et al., ICML 2024", ("scale",)
    ),
    "sign_flip": AttackEntry(sign_flip, "Li et al. (RSA), AAAI 2019", ("scale",)),
    "targeted_label_flip": AttackEntry(
        targeted_label_flip, "Tolpegin et al., ESORICS 2020"
    ),
}
