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


def iqr(
    arguments: str, *, data: Mapping[str, Any], model: str, samples: int
) -> ConfigDict:
    """One point of the article's curve of success over the poisoning ratio.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `defense` (`iqr_clip_avg` is the article's hybrid), `alpha` (share of a batch; 0 is
    no attack), `strong` (the malicious update is boosted by n / M_round, assumed) and
    `labels` (per client, 0 = IID). Assumed throughout: 50 clients, 10 a round, 5
    malicious, lr 0.01, batch 64, 2 epochs, a 4x4 block.

    Args:
      arguments: see above.
      data: section of the config.
      model: name of the network.
      samples: of the training set, for the local steps that Clip-Avg divides by.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments, defense="iqr_clip_avg", alpha=0.052, strong=False, labels=0
    )
    name = given["defense"]
    choose("defense", name, dict.fromkeys(DEFENSES))
    if not 0 <= given["alpha"] <= 1:
        raise InputError(
            f"--config=...:alpha={given['alpha']} must lie between 0 and 1"
        )
    defense: dict[str, Any] = {"name": name}
    if name in ("clip_avg", "iqr_clip_avg"):
        steps = EPOCHS * -(-(samples // CLIENTS) // BATCH_SIZE)
        defense |= {"lr": LR, "local_steps": steps}
    partition: dict[str, Any] = {"name": "random_equal", "num_clients": CLIENTS}
    if given["labels"]:
        partition |= {"name": "labels_per_client", "num_labels": given["labels"]}
    attack = {
        "name": "block_backdoor",
        "num_malicious": MALICIOUS,
        "alpha": given["alpha"],  # 0 poisons nothing, and the SR is measured
        "boost": CLIENTS / MALICIOUS if given["strong"] else 1.0,
    }
    return ConfigDict(
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
