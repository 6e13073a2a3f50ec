"""A targeted backdoor on handwritten digits: FedAvg falls, DROPlet holds.

python launch/run.py --config=configs/quickstart.py --workdir=runs/quickstart

About 20 seconds on two CPU cores, compilation included. Expected (seed 0): MTA 98 and
ASR 83 under FedAvg, MTA 97 and ASR 0 under DROPlet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The main job on data that needs no download."""
    return ConfigDict(
        {
            "rounds": 40,
            "data": {"name": "digits"},
            "partition": {"name": "drop_iid", "num_clients": 20},
            "model": {"name": "cnn", "padding": 1},
            "client": {
                "lr": 0.05,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "batch_size": 16,
                "epochs": 2,
            },
            "participation": {"name": "uniform", "clients_per_round": 10},
            "attack": {
                "name": "backdoor",
                "num_malicious": 4,
                "dpr": 0.5,
                "victim_class": 0,
                "target_class": 7,
            },
            "evaluation": {"every": 5},
            "variants": {
                "fedavg": {"defense": {"name": "fedavg"}},
                "droplet": {"defense": {"name": "droplet"}},
            },
        }
    )
