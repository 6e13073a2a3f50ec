"""DROP on CIFAR-10: ResNet-18, 50 clients, 25 a round, 200 rounds.

    python launch/run.py --config=configs/drop/cifar10.py:defense=droplet,learning=C4 \
        --config.data.data_dir=DIR --workdir=runs/drop_cifar10

Arguments: see `papers.drop.protocol`. DIR holds `cifar-10-batches-py`. A
round is 42 TFLOP: about 5 minutes on two CPU cores; no accelerator has been timed yet.

Expected from the paper's Table 3 (C4, MCR 20 %, IID; one run each, +-5), MTA / ASR
at DPR 1.25, 2.5 and 5 %: undefended 87.6 / 85.5, 87.3 / 96.6, 87.4 / 98.4; DROPlet
87.5 / 91.3, 87.1 / 0.1, 87.2 / 0.9.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.drop.protocol import DROP_LEARNING, drop


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return drop(
        arguments,
        learning=DROP_LEARNING,
        default_learning="C4",
        num_classes=10,
        num_clients=50,
        clients_per_round=25,
        rounds=200,
        victim_class=0,  # airplane
        target_class=7,  # horse
        data={"name": "cifar10", "augmentation": "drop"},
    )
