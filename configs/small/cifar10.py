"""A targeted backdoor on real images in minutes: CIFAR-10 and a two-layer CNN.

    python launch/run.py --config=configs/small/cifar10.py \
        --config.data.data_dir=DIR --workdir=runs/small_cifar10

DIR holds the official `cifar-10-batches-py`. The first 20 000 training images among 20
clients, 4 of them malicious. About 10 minutes for each run on two busy CPU cores.
Expected (seed 0): MTA 63.4 and ASR 45.0 (still rising) under FedAvg, MTA 61.5 and ASR
1.4 under DROPlet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Airplanes with the trigger shall become horses."""
    return ConfigDict(
        {
            "rounds": 40,
            "data": {"name": "cifar10", "num_train": 20_000},
            "partition": {"name": "drop_iid", "num_clients": 20},
            "model": {"name": "cnn"},
            "client": {"lr": 0.02, "momentum": 0.9, "batch_size": 64, "epochs": 2},
            "participation": {"name": "uniform", "clients_per_round": 10},
            "attack": {
                "name": "backdoor",
                "num_malicious": 4,
                "dpr": 0.5,
                "victim_class": 0,
                "target_class": 7,
            },
            "evaluation": {"every": 4},
            "variants": {
                "fedavg": {"defense": {"name": "fedavg"}},
                "droplet": {"defense": {"name": "droplet"}},
            },
        }
    )
