"""LeadFL: client-side defences against bursts of malicious clients.

Zhu, Roos, Chen, ICML 2023, public code (preset `authors`); the report of Guthmann and
Tan 2026 (preset `report`).
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.experiment.config_files import belongs_to, choose, file_arguments

# The server rules under the constants of the code, made for ten clients.
DEFENSES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "multikrum": {"name": "multikrum", "num_neighbors": 7, "num_selected": 5},
    "krum": {"name": "krum", "num_neighbors": 5},
    "bulyan": {"name": "bulyan_leadfl"},
    "sparsefed": {"name": "sparsefed", "fraction": 0.1},
}
_BY_DISTANCE = ("multikrum", "krum", "bulyan")
CLIENT_DEFENSES = ("none", "leadfl", "fl_wbc", "ldp")
MODES = ("random", "bursty", "periodic", "consistent", "random_clients")

# What the data sets differ in: arguments of `leadfl`.
FASHION_MNIST: dict[str, Any] = {
    "data": {"name": "fashion_mnist", "normalization": "unit"},
    "model": {"name": "leadfl_fashion"},
    "alpha": 0.4,
    "loss_scale": "loss",
    # The code's batch size for this data set is hard-wired.
    "authors": {"client.batch_size": 16},
}
CIFAR10: dict[str, Any] = {
    "data": {
        "name": "cifar10",
        "normalization": "imagenet",
        "augmentation": "crop_flip",
    },
    "model": {"name": "leadfl_cifar"},
    "alpha": 0.25,
    "loss_scale": "loss+",
    # Softmax twice: the network's output is fed to cross-entropy as logits.
    "authors": {"model.double_softmax": True},
}


def leadfl(
    arguments: str,
    *,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    alpha: float,
    loss_scale: str,
    authors: Mapping[str, Any],
) -> ConfigDict:
    """One cell of LeadFL's tables and of the report's.

    `arguments` is the text behind the colon of `--config=FILE:TEXT`, with the keys
    `preset` (`authors` switches on every quirk of the code: ten local epochs, momentum
    that survives between rounds, the forced rounds 0, 10 and 12 (but for the mode
    `bursty`, which is the report's), triggers in the constants of another library,
    batch statistics of 1000 images at test time, distances over the whole state in the
    server; `report`: ten local steps and none of that), `defense` (server), `client`
    (defence of benign clients), `mode` (see `participation.leadfl`), `offset` (100,
    200, 300: the repetitions), `labels` (per client, 0 = IID), `rounds`, `effect`
    (measure the attack effect of the report's eqs. 1 and 2), and of LeadFL `variant`
    (empty: `code`) and `alpha` (0: the data set's).

    Args:
      arguments: see above.
      data, model: sections of the config.
      alpha: LeadFL's strength on this data set.
      loss_scale: of MGDA on this data set.
      authors: {"section.key": value} of the code's further quirks.

    Raises:
      InputError: an argument that does not exist or has the wrong type.
    """
    given = file_arguments(
        arguments,
        preset="report",
        defense="multikrum",
        client="leadfl",
        mode="random",
        offset=100,
        labels=0,
        rounds=80,
        effect=False,
        alpha=0.0,
        variant="",
    )
    for key, allowed in (
        ("preset", ("authors", "report")),
        ("client", CLIENT_DEFENSES),
        ("mode", MODES),
    ):
        choose(key, given[key], dict.fromkeys(allowed))
    for key in ("alpha", "variant"):
        belongs_to(given, key, "client", "leadfl")
    as_coded = given["preset"] == "authors"
    client_defense = {"name": given["client"]}
    if given["client"] != "none":
        client_defense["reset"] = "epoch" if as_coded else "round"
    if given["client"] == "leadfl":
        client_defense |= {
            "alpha": given["alpha"] or alpha,
            "clip": 0.2,
            "variant": given["variant"] or "code",
        }
    partition = {"name": "random_equal", "num_clients": 100}
    if given["labels"]:
        partition |= {"name": "labels_per_client", "num_labels": given["labels"]}
    work = {"epochs": 10} if as_coded else {"epochs": 1, "steps": 10}
    config = {
        "seed": given["offset"],
        "rounds": given["rounds"],
        "data": dict(data),
        "partition": partition,
        "model": dict(model),
        "client": {
            "lr": 0.01,
            "momentum": 0.1,
            "persist_momentum": as_coded,
            "weight_decay": 0.0,
            "batch_size": 32,
            **work,
        },
        "participation": {
            "name": "leadfl",
            "clients_per_round": 10,
            "mode": given["mode"],
            "offset": given["offset"],
            # The report's bursts are not the code's, which forces rounds of its own.
            "forced": as_coded and given["mode"] != "bursty",
        },
        "attack": {
            "name": "leadfl_backdoor",
            "num_malicious": 25,
            "malicious_clients": "leadfl",
            "target_class": 8,
            "trigger": "9pixel",
            "trigger_values": "code" if as_coded else "raw",
            "loss_scale": loss_scale,
        },
        "defense": dict(choose("defense", given["defense"], DEFENSES)),
        "client_defense": client_defense,
        # Backdoor accuracy counts all triggered images, the target class included.
        "evaluation": {
            "every": 1,
            "any_source": True,
            "batch_statistics": as_coded,
            "batch_size": 1000 if as_coded else 500,
            "attack_effect": given["effect"],
        },
    }
    if as_coded:
        if given["defense"] in _BY_DISTANCE:
            config["defense"]["whole_state"] = True
        for path, value in authors.items():
            section, key = path.split(".")
            config[section][key] = value
    return ConfigDict(config)
