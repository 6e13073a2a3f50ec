"""PoisonedFL in small: what `configs/small/poisonedfl.py` and `--small` run.

Fashion-MNIST (all training images, the first 2000 for testing) with a small CNN. The
paper's roles: clients of which every group prefers a label (degree 0.5), 2.5 % of all
in a round, one step of 32 images, fakes beyond the genuine population. 800 clients
instead of 1200, 160 rounds instead of 6000, and so a learning rate of 0.4 instead of
0.01 and a test of the alignment every 20 rounds instead of 50. `norm_bound` knows the
benign norms, as in the paper.
"""

from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import choose, file_arguments
from fedjax_sim.papers.poisonedfl.protocol import ADAPTATIONS, SHARE

GENUINE = 800
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "median": {"name": "median"},
    "trimmed_mean": {"name": "trimmed_mean"},
    "norm_bound": {"name": "norm_bound", "bound": "oracle"},
    "prodigy": {"name": "prodigy"},
    "fltrust": {"name": "fltrust", "num_samples": 100},
}


def small(arguments: str) -> ConfigDict:
    """A cell of PoisonedFL's experiments in small.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`: `defense`,
    `fakes`, `adaptation`, `schedule`, `noise_scale` and `flip_probability` as in the
    full size.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        defense="fedavg",
        fakes=20.0,
        adaptation="none",
        schedule="constant",
        noise_scale=1.0,
        flip_probability=0.05,
    )
    choose("adaptation", given["adaptation"], dict.fromkeys(ADAPTATIONS))
    if not 0 <= given["fakes"] <= 100:
        raise InputError(
            f"--config=...:fakes={given['fakes']} must lie between 0 and 100"
        )
    fakes = int(GENUINE * given["fakes"] / 100)
    attack: dict[str, Any] = {"name": "none", "num_fake": 0}
    if fakes:
        attack = {
            "name": "poisonedfl",
            "num_fake": fakes,
            "window": 20,
            "adaptation": given["adaptation"],
            "noise_scale": given["noise_scale"],
            "flip_probability": given["flip_probability"],
        }
    return ConfigDict(
        {
            "rounds": 160,
            "data": {
                "name": "fashion_mnist",
                "normalization": "mnist",
                "num_test": 2000,
            },
            "partition": {
                "name": "label_groups",
                "num_clients": GENUINE,
                "degree": 0.5,
            },
            "model": {"name": "cnn", "widths": (10, 20, 50)},
            "client": {
                "lr": 0.4,
                "schedule": given["schedule"],
                "momentum": 0.0,
                "batch_size": 32,
                "epochs": 1,
                "steps": 1,
            },
            "participation": {
                "name": "uniform",
                "clients_per_round": round((GENUINE + fakes) * SHARE),
            },
            "attack": attack,
            "defense": dict(choose("defense", given["defense"], DEFENSES)),
            "evaluation": {"every": 10},
        }
    )
