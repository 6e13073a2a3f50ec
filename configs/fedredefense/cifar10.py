"""FedREDefense on CIFAR-10: 100 non-IID clients, all in every round, 500 rounds.

    python launch/run.py \
        --config=configs/fedredefense/cifar10.py:attack=min_max,defense=flame \
        --config.data.data_dir=DIR --workdir=runs/fedredefense_cifar10

Arguments: see `papers.fedredefense.protocol`. DIR holds
`cifar-10-batches-py`.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.fedredefense.protocol import fedredefense


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return fedredefense(
        arguments,
        data={"name": "cifar10", "normalization": "cifar10"},
        reconstruction={
            "lr_images": 0.1,
            "lr_labels": 0.05,
            "initial_rate": 0.05,
            "lr_rate": 5e-5,
            "first_limit": 500,
            "later_limit": 1500,
        },
    )
