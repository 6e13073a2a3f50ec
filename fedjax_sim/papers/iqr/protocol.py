"""The IQR / Clip-Avg article: a CIFAR-10 backdoor that hides in few images.

Most constants are not printed; those assumed here are marked.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config_files import choose, file_arguments

LR, BATCH_SIZE, EPOCHS, CLIENTS, PER_ROUND, MALICIOUS = 0.01, 64, 2, 50, 10, 5
DEFENSES = ("fedavg", "iqr_filter", "clip_avg", "iqr_clip_avg")


PRESETS = ("assumed", "textbook")


def iqr(arguments: str, *, data: Mapping[str, Any], model: str) -> ConfigDict:
    """One point of the article's curve of success over the poisoning ratio.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `preset` (`textbook`: see `textbook`), `defense` (`iqr_clip_avg` is the article's
    hybrid), `alpha` (share of a batch; 0 is no attack), `strong` (the malicious update
    is boosted by n / M_round, assumed) and `labels` (per client, 0 = IID). Assumed
    throughout: 50 clients, 10 a round, 5 malicious, lr 0.01, batch 64, 2 epochs, a 4x4
    block, in the preset `assumed`.

    Args:
      arguments: see above.
      data: section of the config.
      model: name of the network.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        preset="assumed",
        defense="iqr_clip_avg",
        alpha=0.052,
        strong=False,
        labels=0,
    )
    choose("preset", given["preset"], dict.fromkeys(PRESETS))
    name = given["defense"]
    choose("defense", name, dict.fromkeys(DEFENSES))
    if not 0 <= given["alpha"] <= 1:
        raise InputError(
            f"--config=...:alpha={given['alpha']} must lie between 0 and 1"
        )
    defense: dict[str, Any] = {"name": name}  # Clip-Avg's lr and T: the run's own
    partition: dict[str, Any] = {"name": "random_equal", "num_clients": CLIENTS}
    if given["labels"]:
        partition |= {"name": "labels_per_client", "num_labels": given["labels"]}
    attack = {
        "name": "block_backdoor",
        "num_malicious": MALICIOUS,
        "alpha": given["alpha"],  # 0 poisons nothing, and the SR is measured
        "boost": CLIENTS / MALICIOUS if given["strong"] else 1.0,
    }
    config = ConfigDict(
        {
            "rounds": 100,
            "data": dict(data),
            "partition": partition,
            "model": {"name": model},
            "client": {
                "lr": LR,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "batch_size": BATCH_SIZE,
                "epochs": EPOCHS,
            },
            "participation": {"name": "enforced", "clients_per_round": PER_ROUND},
            "attack": attack,
            "defense": defense,
            "evaluation": {"every": 1, "any_source": True},
        }
    )
    if given["preset"] == "textbook":
        textbook(config, given["strong"])
    return config


def textbook(config: ConfigDict, strong: bool) -> None:
    """Gives a config the constants of a textbook.

    Chapter 15 of github.com/FederatedAI/Practicing-Federated-Learning, whose code the
    article's listings resemble: an inference, not a fact of the article. One of the ten
    clients is malicious (assumed); the strong attack uploads eta (L - G) + G with eta
    2.
    """
    config.partition.num_clients = 10
    config.model.name = "resnet18"
    config.data.augmentation = "crop_flip"
    config.client.update(lr=0.001, momentum=0.0001, batch_size=32, epochs=3)
    config.server = {"lr": 0.3}  # lambda
    config.participation = {"name": "uniform", "clients_per_round": 3}
    config.attack.num_malicious = 1
    # Rows 2 to 27, columns 3 to 5.
    config.attack.update(row=2, height=26, column=3, width=3)
    config.attack.boost = 2.0 if strong else 1.0
    config.attack.plus_model = strong
