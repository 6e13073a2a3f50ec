"""FedREDefense in small: what `configs/small/fedredefense.py` and `--small` run.

The first 1500 training and 2000 test images of Fashion-MNIST with a small CNN. The
paper's roles: 100 clients, all in every round, beta 0.1, the last 28 malicious, one
epoch, the oracle of `norm_bound`. 150 rounds instead of 500, of one step on some 15
images with a learning rate of 0.1 instead of 19 on 32 with 0.001; FLTrust owns 20
samples, one step too, instead of 500.

FedREDefense keeps its threshold of 0.6. As an update is one step, one inner step
explains it, instead of five for 19; its rate starts at 1 (over K = 10 classes, the
clients' 0.1). With outer rates of 3 (images) and 12 (labels) instead of 0.5 and 0.2 a
benign client needs some 6 iterations in its first round, at most 17 (with the paper's
rates 200, at most 600). Crafted updates that resemble a mean of honest ones, LIE's and
Min-Sum's, can be explained too, but only after 300: so the first round has at most 60
instead of 800. Later rounds have at most 400 instead of 2000. The adaptive attacks
imitate this server; after the first round they spend 5 iterations on a trial.
"""

from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import belongs_to, choose, file_arguments
from fedjax_sim.papers.fedredefense.protocol import ATTACKS

ROUNDS = 150
SCHEDULE_ROUNDS = 20  # of Table 9
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "krum": {"name": "krum", "variant": "authors"},
    "median": {"name": "median", "variant": "authors"},
    "trimmed_mean": {"name": "trimmed_mean", "variant": "authors"},
    "norm_bound": {"name": "norm_bound", "bound": "oracle"},
    "flame": {"name": "flame"},
    "fltrust": {"name": "fltrust", "num_samples": 20},
    "fldetector": {"name": "fldetector"},
    "flcert": {"name": "flcert", "num_groups": 10},
    "fedredefense": {
        "name": "fedredefense",
        "first_limit": 60,
        "later_limit": 400,
        "inner_steps": 1,
        "initial_rate": 1.0,
        "lr_images": 3.0,
        "lr_labels": 12.0,
    },
}
_MODES: dict[str, dict[str, Any]] = {
    "": {},
    "continuous": {"mode": "continuous", "later_limit": 8},
    "intermittent": {"mode": "intermittent", "later_limit": 60},
    "dynamic": {"mode": "dynamic"},
}


def small(arguments: str) -> ConfigDict:
    """A cell of FedREDefense's tables in small.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`: `defense`,
    `attack`, `mcr`, `beta`, `epochs`, `participation`, `mode` and `base` as in the full
    size, and `rounds` (0: 150; of 2 and 5 epochs a half and a fifth; 20 where `mode` is
    given).

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
        mode="",
        base="",
        rounds=0,
    )
    choose("attack", given["attack"], dict.fromkeys(ATTACKS))
    for key in ("mode", "base"):
        belongs_to(given, key, "defense", "fedredefense")
    for key, low, high in (("mcr", 0, 100), ("participation", 0.01, 1)):
        if not low <= given[key] <= high:
            raise InputError(
                f"--config=...:{key}={given[key]} must lie between {low} and {high}"
            )
    name = given["defense"]
    defense = dict(choose("defense", name, DEFENSES))
    defense |= choose("mode", given["mode"], _MODES)
    if given["base"]:
        defense["base"] = given["base"]
    if name == "fedredefense" and given["mode"] in ("", "dynamic"):
        factor = given["epochs"] / given["participation"]
        defense["later_limit"] = round(defense["later_limit"] * factor)
    if name == "fedredefense" and given["epochs"] > 1:
        defense["inner_steps"] = given["epochs"]
    attack = given["attack"]
    if (name, attack) == ("krum", "fang"):
        attack = "fang_krum"
    count = 0 if attack == "none" else round(given["mcr"])
    own: dict[str, Any] = {
        "name": attack if count else "none",
        "num_malicious": count,
        "malicious_clients": "last",
    }
    if attack.startswith("adaptive"):
        own["later_limit"] = 5
    rounds = max(ROUNDS // given["epochs"], 1)
    rounds = given["rounds"] or (SCHEDULE_ROUNDS if given["mode"] else rounds)
    return ConfigDict(
        {
            "seed": 4,
            "rounds": rounds,
            "data": {
                "name": "fashion_mnist",
                "normalization": "mnist",
                "num_train": 1500,
                "num_test": 2000,
            },
            "partition": {
                "name": "sinkhorn_dirichlet",
                "num_clients": 100,
                "alpha": given["beta"],
            },
            "model": {"name": "cnn", "widths": (10, 20, 50)},
            "client": {
                "lr": 0.1,
                "momentum": 0.0,
                "batch_size": 20,
                "epochs": given["epochs"],
            },
            "participation": {
                "name": "uniform",
                "clients_per_round": round(100 * given["participation"]),
            },
            "attack": own,
            "defense": defense,
            "evaluation": {"every": 10},
        }
    )
