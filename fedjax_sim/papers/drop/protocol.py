"""DROP: targeted backdoors across learning configurations.

Syros, Suri, Koushanfar, Nita-Rotaru, Oprea 2025 (arXiv 2502.07011) and its code.
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import belongs_to, choose, file_arguments

# (lr, batch size, local epochs) of Table 2 (CIFAR-10, CINIC-10, GTSRB).
DROP_LEARNING = {
    "C1": (0.05, 128, 2),
    "C2": (0.05, 256, 2),
    "C3": (0.025, 256, 5),
    "C4": (0.01, 64, 2),
    "C5": (0.025, 128, 2),
    "C6": (0.025, 256, 2),
    "C7": (0.1, 256, 2),
    "C8": (0.01, 128, 2),
    "C9": (0.01, 128, 5),
    "C10": (0.01, 256, 10),
}
# The same of Table 7 (EMNIST).
DROP_LEARNING_EMNIST = {
    "C1": (0.1, 32, 2),
    "C2": (0.1, 64, 5),
    "C3": (0.05, 32, 5),
    "C4": (0.1, 32, 1),
    "C5": (0.1, 64, 1),
    "C6": (0.1, 32, 5),
    "C7": (0.1, 64, 2),
    "C8": (0.05, 32, 1),
    "C9": (0.01, 32, 2),
    "C10": (0.025, 128, 5),
}


# What the released configs give to each defence; `authors` made the published tables.
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "median": {"variant": "authors"},
    "multikrum": {"variant": "authors"},
    "fltrust": {"variant": "authors", "num_samples": 1000},
    "foolsgold": {"variant": "authors"},
    "flame": {"variant": "authors", "noise_sigma": 0.001},
    "flare": {"variant": "authors", "num_samples": 1000},
    # Of FLIP the simplified epoch: that of the authors (`variant`, with `corner_block`
    # but for EMNIST) took them 57 hours a run.
    "flip": {"start_round": 10, "confidence": None},
    "droplet": {},
    "drop": {},
}


def drop(
    arguments: str,
    *,
    learning: Mapping[str, tuple[float, int, int]],
    default_learning: str,
    num_classes: int,
    num_clients: int,
    clients_per_round: int,
    rounds: int,
    victim_class: int,
    target_class: int,
    data: Mapping[str, Any],
    momentum: float = 0.9,
    weight_decay: float = 0.005,
    model: Mapping[str, Any] | None = None,
    defenses: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConfigDict:
    """DROP's protocol: a targeted backdoor, one cell of the paper's tables.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `defense` (a name), `variant` (of the paper's baselines; `authors`, the default: the
    rule that made the tables; `paper`: as its own paper defines it), `learning` (C1 to
    C10; `lr`, `batch_size` and `epochs` replace its own, for the grids of Figures 2 and
    6), `dpr` (percent of all samples of a malicious client, as the paper counts),
    `dpr_of` (`all`, or `clean`: percent of those that are left, section 2.2), `mcr`
    (percent of the clients), `alpha` (Dirichlet concentration, 0 = IID) and
    `attack` (`backdoor`, `neurotoxin` or `chameleon`). `defenses` are the options in
    which a data set differs. Momentum and weight decay are those of the authors' code;
    the paper gives neither. FLIP's refusal shows in the conditional rates, as for every
    defence.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        defense="droplet",
        variant="",
        attack="backdoor",
        learning=default_learning,
        dpr=1.25,
        dpr_of="all",
        mcr=20.0,
        alpha=0.0,
        lr=0.0,
        batch_size=0,
        epochs=0,
    )
    for key, highest in (("dpr", 100), ("mcr", 100), ("alpha", math.inf)):
        if not 0 <= given[key] <= highest:
            raise InputError(
                f"--config=...:{key}={given[key]} must lie between 0 and {highest}"
            )
    named = choose("learning", given["learning"], learning)
    own_learning = (given[key] for key in ("lr", "batch_size", "epochs"))
    lr, batch_size, epochs = (g or n for g, n in zip(own_learning, named, strict=True))
    for key, allowed in (
        ("dpr_of", ("all", "clean")),
        ("variant", ("", "authors", "paper")),
        ("attack", ("backdoor", "neurotoxin", "chameleon")),
    ):
        choose(key, given[key], dict.fromkeys(allowed))
    name = given["defense"]
    own = {**DEFENSES.get(name, {}), **(defenses or {}).get(name, {})}
    with_variants = (k for k, v in DEFENSES.items() if "variant" in v)
    belongs_to(given, "variant", "defense", *with_variants)
    if given["variant"]:
        own["variant"] = given["variant"]
    defense = {"name": name, **own}
    partition = {"name": "drop_iid", "num_clients": num_clients}
    if given["alpha"] > 0:
        partition = {**partition, "name": "drop_dirichlet", "alpha": given["alpha"]}
    num_malicious = round(given["mcr"] / 100 * num_clients)
    attack: dict[str, Any] = {"name": "none"}
    if num_malicious:
        share = given["dpr"] / 100
        if given["dpr_of"] == "clean":
            share /= 1 + share
        attack = {
            "name": given["attack"],
            "num_malicious": num_malicious,
            # The code's rate counts the samples of the victim class only, and cannot
            # exceed all of them: 2.5 % is out of reach on EMNIST.
            "dpr": min(share * num_classes, 1.0),
            "victim_class": victim_class,
            "target_class": target_class,
            "trigger": "4pixel",
        }
    return ConfigDict(
        {
            "seed": 71,
            "rounds": rounds,
            "data": {"normalization": "half", **data},
            "partition": partition,
            "model": {"name": "resnet18", **(model or {})},
            "client": {
                "lr": lr,
                "batch_size": batch_size,
                "epochs": epochs,
                "momentum": momentum,
                "weight_decay": weight_decay,
            },
            "participation": {
                "name": "uniform",
                "clients_per_round": clients_per_round,
            },
            "attack": attack,
            "defense": defense,
            "evaluation": {"every": 1, "low_confidence_threshold": 0.4},
        }
    )
