"""FedREDefense: model poisoning on non-IID data.

Xie, Fang, Gong, ICML 2024; constants from the paper's section 5.1 and appendices, from
the released code where the paper is silent.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import belongs_to, choose, file_arguments

# Local epochs -> (rounds, factor of the later limit of reconstruction).
_EPOCHS = {1: (500, 1), 2: (250, 2), 5: (100, 5)}

# The rules as their tables used them; `norm_bound` knows the benign norms (stated).
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "krum": {"variant": "authors"},
    "median": {"variant": "authors"},
    "trimmed_mean": {"variant": "authors"},
    "norm_bound": {"bound": "oracle"},
    "flame": {},
    "fltrust": {"num_samples": 500},
    "fldetector": {},
    "flcert": {"num_groups": 10, "base": "median_lower"},
    "fedredefense": {},
}

ATTACKS = (
    "none",
    "fang",
    "lie",
    "min_max",
    "min_sum",
    "mpaf",
    "scaling",
    "dba",
    "label_flip",
    "targeted_label_flip",
    "adaptive_label_flip",
    "adaptive_targeted_label_flip",
)


def fedredefense(
    arguments: str,
    *,
    data: Mapping[str, Any],
    reconstruction: Mapping[str, Any],
) -> ConfigDict:
    """One cell of the paper's Tables 1 to 3 and 8 to 10.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `defense`, `attack` (Fang takes its Krum form against Krum), `mcr` (percent of the
    clients), `beta` (Dirichlet concentration), `epochs` (1, 2 or 5, which sets the
    rounds), `participation` (share of the clients in a round), of FedREDefense `mode`
    (empty: `dynamic`) and `base` (empty: `fedavg`), and `model`: `convnet`, the network
    of the code and the likely origin of the numbers, or `cnn`, that of the paper's
    tables.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        defense="fedredefense",
        attack="fang",
        mcr=28.0,
        beta=0.1,
        epochs=1,
        participation=1.0,
        model="convnet",
        mode="",
        base="",
    )
    choose("attack", given["attack"], dict.fromkeys(ATTACKS))
    choose("defense", given["defense"], DEFENSES)
    for key in ("mode", "base"):
        belongs_to(given, key, "defense", "fedredefense")
    if given["epochs"] not in _EPOCHS:
        raise InputError(
            f"--config=...:epochs={given['epochs']} does not exist; one of: "
            f"{', '.join(map(str, _EPOCHS))}"
        )
    for key, low, high in (("mcr", 0, 100), ("participation", 0.01, 1)):
        if not low <= given[key] <= high:
            raise InputError(
                f"--config=...:{key}={given[key]} must lie between {low} and {high}"
            )
    rounds, factor = _EPOCHS[given["epochs"]]
    name = given["defense"]
    defense = {"name": name, **DEFENSES[name]}
    if name == "fedredefense":
        mode = given["mode"] or "dynamic"
        later = reconstruction["later_limit"] * factor / given["participation"]
        defense |= {
            **reconstruction,
            "later_limit": round(later),
            "mode": mode,
            "base": given["base"] or "fedavg",
        }
        first = reconstruction["first_limit"]
        # Appendix B.3, on CIFAR-10, whose first limit is 500; elsewhere in proportion.
        if mode == "continuous":
            defense["later_limit"] = round(60 * first / 500)
        if mode == "intermittent":
            defense["later_limit"] = first
    attack = given["attack"]
    if attack == "fang" and name == "krum":
        attack = "fang_krum"
    num_malicious = 0 if attack == "none" else round(given["mcr"])
    attack = attack if num_malicious else "none"
    return ConfigDict(
        {
            "seed": 4,
            "rounds": rounds,
            "data": dict(data),
            "partition": {
                "name": "sinkhorn_dirichlet",
                "num_clients": 100,
                "alpha": given["beta"],
            },
            "model": {"name": given["model"]},
            "client": {
                "lr": 1e-3,
                "momentum": 0.0,
                "weight_decay": 0.0,
                "batch_size": 32,
                "epochs": given["epochs"],
            },
            "participation": {
                "name": "uniform",
                "clients_per_round": round(100 * given["participation"]),
            },
            "attack": {
                "name": attack,
                "num_malicious": num_malicious,
                "malicious_clients": "last",
            },
            "defense": defense,
            "evaluation": {"every": 10},
        }
    )
