"""DROP in small: what `configs/small/drop.py` and the layouts' `--small` run.

20 clients, 10 a round, and a small CNN. The layouts take the first 12 000 training
images of Fashion-MNIST and 30 rounds: 600 images a client, seven of them poisoned at a
rate of 1.25 %. Handwritten digits (60 rounds) need no file and seconds, but of 72
images of a client one is poisoned then; and there are the first 4000 of CIFAR-10.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import choose, file_arguments
from fedjax_sim.papers.drop.protocol import DROP_LEARNING, DROP_LEARNING_EMNIST

NUM_CLIENTS, NUM_CLASSES = 20, 10
# The learning-based defences with budgets for a CPU; FLIP and DROP start when the model
# knows the task. On images of 8x8 pixels FLIP finds no trigger in a quarter of them.
_FLIP = {
    "name": "flip",
    "start_round": 20,
    "steps": 20,
    "steps_again": 10,
    "size_min": 1,
    "max_size": 1.0,
    "confidence": None,
}
_DROP = {"every": 20, "num_seed": 100, "batch_size": 32, "budget": 9_600}
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "median": {"name": "median", "variant": "authors"},
    "multikrum": {"name": "multikrum", "variant": "authors"},
    "fltrust": {"name": "fltrust", "variant": "authors", "num_samples": 100},
    "foolsgold": {"name": "foolsgold", "variant": "authors"},
    "flame": {"name": "flame", "variant": "authors", "noise_sigma": 0.001},
    "flare": {"name": "flare", "variant": "authors", "num_samples": 100},
    "flip": _FLIP,
    "droplet": {"name": "droplet"},
    "drop": {"name": "drop", **_DROP},
}
# What differs where a client has 600 images: as many for the server as a client has, as
# in the full size, and two distillations, the second behind the last round.
_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "fashion_mnist": {
        "fltrust": {"num_samples": 600},
        "flare": {"num_samples": 600},
        "drop": {"every": 15},
    }
}
# How much smaller batches are than CIFAR-10's and than EMNIST's.
_SMALLER = {"digits": (6.4, 4), "fashion_mnist": (4, 2), "cifar10": (6.4, 4)}
# The sections in which a data set differs.
_DATA: dict[str, dict[str, Any]] = {
    "digits": {
        "rounds": 60,
        "data": {"name": "digits"},
        "model": {"name": "cnn", "padding": 1},
    },
    "fashion_mnist": {
        "rounds": 30,
        "data": {
            "name": "fashion_mnist",
            "normalization": "half",
            "num_train": 12_000,
            "num_test": 2000,
        },
        "model": {"name": "cnn", "widths": (10, 20, 50)},
    },
    "cifar10": {
        "rounds": 30,
        "data": {
            "name": "cifar10",
            "normalization": "half",
            "num_train": 4000,
            "num_test": 2000,
        },
        "model": {"name": "cnn", "widths": (16, 32, 64)},
    },
}


def scaled(learning: Mapping[str, tuple[float, int, int]], data: str) -> dict[str, Any]:
    """The published (rate, batch size, epochs) for fewer images and rounds.

    CIFAR-10's rates five times as high on digits; on images 0.5 sqrt(rate), which is
    the same at C4, keeps the order, and ends at 0.16 instead of 0.5: without BatchNorm
    nothing is learnt from 0.25 on. EMNIST's rates, whose momentum is none there and 0.9
    here, as they are. Batches are smaller, by `_SMALLER`, as clients have fewer images
    than 1000.
    """
    like_cifar10 = learning is DROP_LEARNING
    smaller = _SMALLER[data][0 if like_cifar10 else 1]

    def rate(lr: float) -> float:
        if not like_cifar10:
            return lr
        return 5 * lr if data == "digits" else round(0.5 * lr**0.5, 3)

    return {
        name: (rate(lr), round(batch_size / smaller), epochs)
        for name, (lr, batch_size, epochs) in learning.items()
    }


def small(arguments: str) -> ConfigDict:
    """A cell of DROP's tables in small.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`: `defense`,
    `attack`, `learning` (C1 to C10), `dpr` (percent of all samples of a malicious
    client), `mcr` (percent of the clients) and `alpha` (Dirichlet concentration, 0 =
    IID) as in the full size; `data` (`digits`, `fashion_mnist`, `cifar10`) and `like`
    (`cifar10` or `emnist`: whose learning configurations).

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        defense="droplet",
        attack="backdoor",
        data="digits",
        like="cifar10",
        learning="C4",
        dpr=1.25,
        mcr=20.0,
        alpha=0.0,
    )
    for key, highest in (("dpr", 100 / NUM_CLASSES), ("mcr", 100), ("alpha", 1e6)):
        if not 0 <= given[key] <= highest:
            raise InputError(
                f"--config=...:{key}={given[key]} must lie between 0 and {highest:g}"
            )
    choose("attack", given["attack"], dict.fromkeys(("backdoor", "neurotoxin")))
    tables = {"cifar10": DROP_LEARNING, "emnist": DROP_LEARNING_EMNIST}
    choose("data", given["data"], _DATA)
    learning = scaled(choose("like", given["like"], tables), given["data"])
    lr, batch_size, epochs = choose("learning", given["learning"], learning)
    partition: dict[str, Any] = {"name": "drop_iid", "num_clients": NUM_CLIENTS}
    if given["alpha"] > 0:
        partition |= {"name": "drop_dirichlet", "alpha": given["alpha"]}
    num_malicious = round(given["mcr"] / 100 * NUM_CLIENTS)
    defense = dict(choose("defense", given["defense"], DEFENSES))
    defense |= _OWN.get(given["data"], {}).get(given["defense"], {})
    attack: dict[str, Any] = {"name": "none"}
    if num_malicious:
        attack = {
            "name": given["attack"],
            "num_malicious": num_malicious,
            "dpr": given["dpr"] / 100 * NUM_CLASSES,
            "victim_class": 0,
            "target_class": 7,
        }
    return ConfigDict(
        {
            **_DATA[given["data"]],
            "partition": partition,
            "client": {
                "lr": lr,
                "momentum": 0.9,
                "batch_size": batch_size,
                "epochs": epochs,
            },
            "participation": {"name": "uniform", "clients_per_round": 10},
            "attack": attack,
            "defense": defense,
            "evaluation": {"every": 10 if given["data"] == "digits" else 3},
        }
    )


def small_grid(arguments: str) -> ConfigDict:
    """A point of the grid of learning configurations (Figures 2 and 6) in small.

    `arguments`: `defense`, and `lr`, `batch_size` and `epochs`, in place of a named
    learning configuration.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments, defense="fedavg", lr=0.05, batch_size=16, epochs=2
    )
    return ConfigDict(
        {
            "rounds": 30,
            "data": {"name": "digits"},
            "partition": {"name": "drop_iid", "num_clients": NUM_CLIENTS},
            "model": {"name": "mlp"},
            "client": {
                "lr": given["lr"],
                "momentum": 0.9,
                "batch_size": given["batch_size"],
                "epochs": given["epochs"],
            },
            "participation": {"name": "uniform", "clients_per_round": 10},
            "attack": {
                "name": "backdoor",
                "num_malicious": 4,
                "dpr": 0.5,
                "victim_class": 0,
                "target_class": 7,
            },
            "defense": dict(choose("defense", given["defense"], DEFENSES)),
            "evaluation": {"every": 5},
        }
    )
