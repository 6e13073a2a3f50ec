"""The IQR article in small: what `configs/small/iqr.py` and `--small` run.

The first 10 000 training and 2000 test images of Fashion-MNIST with a small CNN. The
article's roles: 50 clients, 10 a round, one of them malicious, batches of 64. Beside
data and network, the learning rate is larger: 0.1 instead of 0.01 (0.001 in the preset
`textbook`); 60 rounds.
"""

from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import choose, file_arguments
from fedjax_sim.papers.iqr.protocol import DEFENSES, PRESETS, textbook

LR, EPOCHS, CLIENTS, MALICIOUS, IMAGES, BATCH_SIZE = 0.1, 2, 50, 5, 10_000, 64


def small(arguments: str) -> ConfigDict:
    """A point of the article's curves in small.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`: `preset`,
    `defense`, `alpha` and `strong` as in the full size.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments, preset="assumed", defense="iqr_clip_avg", alpha=0.052, strong=False
    )
    choose("preset", given["preset"], dict.fromkeys(PRESETS))
    name = given["defense"]
    choose("defense", name, dict.fromkeys(DEFENSES))
    if not 0 <= given["alpha"] <= 1:
        raise InputError(
            f"--config=...:alpha={given['alpha']} must lie between 0 and 1"
        )
    defense: dict[str, Any] = {"name": name}
    config = ConfigDict(
        {
            "rounds": 60,
            "data": {"name": "fashion_mnist", "num_train": IMAGES, "num_test": 2000},
            "partition": {"name": "random_equal", "num_clients": CLIENTS},
            "model": {"name": "cnn", "widths": (10, 20, 50)},
            "client": {
                "lr": LR,
                "momentum": 0.9,
                "batch_size": BATCH_SIZE,
                "epochs": EPOCHS,
            },
            "participation": {"name": "enforced", "clients_per_round": 10},
            "attack": {
                "name": "block_backdoor",
                "num_malicious": MALICIOUS,
                "alpha": given["alpha"],
                "boost": CLIENTS / MALICIOUS if given["strong"] else 1.0,
            },
            "defense": defense,
            "evaluation": {"every": 3, "any_source": True},
        }
    )
    if given["preset"] == "textbook":
        textbook(config, given["strong"])
        config.model.name, config.client.lr = "cnn", LR
        config.data.augmentation = "none"
    return config
