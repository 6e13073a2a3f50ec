"""The job as a config: 20 clients, each with 20 steps of 64 images, FedAvg."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fashion-MNIST, two-layer CNN, SGD with momentum; evaluated after each round."""
    return ConfigDict(
        {
            "rounds": 5,
            "data": {"name": "fashion_mnist"},
            "partition": {"name": "random_equal", "num_clients": 20},
            "model": {"name": "cnn"},
            "client": {
                "lr": 0.05,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "batch_size": 64,
                "steps": 20,
                "persist_momentum": True,
            },
            "participation": {"name": "uniform", "clients_per_round": 20},
            "defense": {"name": "fedavg"},
            "evaluation": {"every": 1},
        }
    )
