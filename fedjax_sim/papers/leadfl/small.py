"""LeadFL in small: what `configs/small/leadfl.py` and the layouts' `--small` run.

The report's preset: the first 20 000 training and 1000 test images of Fashion-MNIST or
CIFAR-10 with small CNNs; 100 clients, 25 malicious, 10 a round, ten steps; 40 rounds
(the report's study of alpha; 80 in its tables), on CIFAR-10 80. Batches of 16 instead
of 32, a learning rate of 0.1 instead of 0.01; the noise of LDP and FL-WBC, which both
multiply by the learning rate, is 0.04 instead of 0.4.

The preset `authors` is the full size's on the first 6000 training images, so that an
epoch has 4 steps (CIFAR-10: 2) instead of 38 (16), and 1000 test images; on CIFAR-10 14
rounds.
"""

from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.experiment.config_files import belongs_to, choose, file_arguments
from fedjax_sim.papers.leadfl.protocol import (
    CIFAR10,
    CLIENT_DEFENSES,
    DEFENSES,
    FASHION_MNIST,
    MODES,
    leadfl,
)

ALPHA = {"fashion_mnist": 0.4, "cifar10": 0.25}
_DATA: dict[str, dict[str, Any]] = {
    "fashion_mnist": {
        "rounds": 40,
        "data": {"name": "fashion_mnist", "normalization": "mnist"},
        "model": {"name": "cnn", "widths": (10, 20, 50)},
    },
    "cifar10": {
        "rounds": 80,
        "data": {"name": "cifar10", "normalization": "half"},
        "model": {"name": "cnn", "widths": (16, 32, 64)},
    },
}
_SIZES = {"num_train": 20_000, "num_test": 1000}
_NOISE = {"scale": 0.04, "reset": "round"}


def small(arguments: str) -> ConfigDict:
    """A cell of LeadFL's tables in small, preset `report`.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`: `data`
    (`fashion_mnist`, `cifar10`), `defense`, `client`, `mode`, `offset`, `alpha`,
    `variant` and `effect` as in the full size, and `rounds` (0: those of the data set).

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        data="fashion_mnist",
        defense="multikrum",
        client="leadfl",
        mode="random",
        offset=100,
        alpha=0.0,
        variant="",
        effect=False,
        rounds=0,
    )
    for key, allowed in (("client", CLIENT_DEFENSES), ("mode", MODES)):
        choose(key, given[key], dict.fromkeys(allowed))
    for key in ("alpha", "variant"):
        belongs_to(given, key, "client", "leadfl")
    own = choose("data", given["data"], _DATA)
    client_defense: dict[str, Any] = {"name": given["client"]}
    if given["client"] in ("ldp", "fl_wbc"):
        client_defense |= _NOISE
    if given["client"] == "leadfl":
        client_defense |= {
            "alpha": given["alpha"] or ALPHA[given["data"]],
            "clip": 0.2,
            "reset": "round",
            "variant": given["variant"] or "code",
        }
    return ConfigDict(
        {
            "seed": given["offset"],
            "rounds": given["rounds"] or own["rounds"],
            "data": own["data"] | _SIZES,
            "partition": {"name": "random_equal", "num_clients": 100},
            "model": own["model"],
            "client": {
                "lr": 0.1,
                "momentum": 0.1,
                "batch_size": 16,
                "epochs": 1,
                "steps": 10,
            },
            "participation": {
                "name": "leadfl",
                "clients_per_round": 10,
                "mode": given["mode"],
                "offset": given["offset"],
            },
            "attack": {
                "name": "leadfl_backdoor",
                "num_malicious": 25,
                "malicious_clients": "leadfl",
            },
            "defense": dict(choose("defense", given["defense"], DEFENSES)),
            "client_defense": client_defense,
            "evaluation": {
                "every": 1,
                "any_source": True,
                "attack_effect": given["effect"],
            },
        }
    )


def small_authors(arguments: str) -> ConfigDict:
    """A cell as the authors' code runs it, on less data.

    `arguments`: `data` (`fashion_mnist`, `cifar10`) and those of the full size, whose
    preset is `authors` here; CIFAR-10 has 14 rounds unless `rounds` is given.

    Raises:
      InputError: see `leadfl`.
    """
    items = [item for item in arguments.split(",") if item]
    own = [item for item in items if item.startswith("data=")]
    data = file_arguments(",".join(own), data="fashion_mnist")["data"]
    full = {"fashion_mnist": FASHION_MNIST, "cifar10": CIFAR10}
    rest = ["preset=authors"] + ["rounds=14"] * (data == "cifar10")
    rest += [item for item in items if item not in own]
    config = leadfl(",".join(rest), **choose("data", data, full))
    config.data.num_train, config.data.num_test = 6000, 1000
    return config
