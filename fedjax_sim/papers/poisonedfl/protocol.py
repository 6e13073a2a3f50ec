"""PoisonedFL: fake clients push the model along one direction, round after round.

Xie, Fang, Gong, CVPR 2025 (arXiv 2404.15611), public code.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import choose, file_arguments

GENUINE = 1200
SHARE = 0.025  # of all clients, in a round
DEFENSES = (
    "fedavg",
    "median",
    "trimmed_mean",
    "norm_bound",
    "prodigy",
    "multikrum",
    "fltrust",
    "flame",
    "flcert",
)
ADAPTATIONS = ("none", "noise", "sign_flip", "partition")


def poisonedfl(
    arguments: str,
    *,
    data: Mapping[str, Any],
    rounds: int,
    lr: float,
    degree: float,
) -> ConfigDict:
    """One cell of the paper's tables: 1200 genuine clients, 2.5 % of all in a round.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `defense`, `fakes` (percent of the genuine clients), `adaptation` (`none`, `noise`,
    `sign_flip`, `partition`), `schedule` (of the local learning rate over rounds),
    `noise_scale` and `flip_probability` (of the adaptations of that name).
    The fakes in a round vary, as all clients are drawn alike. A client holds 50
    samples and the code drops the last incomplete batch: one step of 32 a round.

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
    if given["defense"] == "fldetector":
        raise InputError(
            "--config=...:defense=fldetector: FLDetector predicts every client in "
            f"every round, and 2.5 % are drawn here; allowed: {', '.join(DEFENSES)}"
        )
    choose("defense", given["defense"], dict.fromkeys(DEFENSES))
    choose("adaptation", given["adaptation"], dict.fromkeys(ADAPTATIONS))
    if not 0 <= given["fakes"] <= 100:
        raise InputError(
            f"--config=...:fakes={given['fakes']} must lie between 0 and 100"
        )
    fakes = round(GENUINE * given["fakes"] / 100)
    defense = {"name": given["defense"]}
    if given["defense"] == "norm_bound":
        defense["bound"] = "oracle"
    attack = {"name": "none"}
    if fakes:
        attack = {
            "name": "poisonedfl",
            "num_fake": fakes,
            "adaptation": given["adaptation"],
            "noise_scale": given["noise_scale"],
            "flip_probability": given["flip_probability"],
        }
    return ConfigDict(
        {
            "rounds": rounds,
            "data": dict(data),
            "partition": {
                "name": "label_groups",
                "num_clients": GENUINE,
                "degree": degree,
            },
            "model": {"name": "cnn", "xavier": True},
            "client": {
                "lr": lr,
                "schedule": given["schedule"],
                "momentum": 0.0,
                "weight_decay": 0.0,
                "batch_size": 32,
                "epochs": 1,
                "steps": 1,
            },
            "participation": {
                "name": "uniform",
                "clients_per_round": round((GENUINE + fakes) * SHARE),
            },
            "attack": attack,
            "defense": defense,
            "evaluation": {"every": 50},
        }
    )
