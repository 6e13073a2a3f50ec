"""FedREDefense on FashionMNIST: 100 non-IID clients, all in every round, 500 rounds.

    python launch/run.py \
        --config=configs/fedredefense/fashion_mnist.py:attack=min_max,defense=flame \
        --config.data.data_dir=DIR --workdir=runs/fedredefense_fashion_mnist

Arguments: see `papers.fedredefense.protocol`. DIR holds the four
official IDX files.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.fedredefense.protocol import fedredefense


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return fedredefense(
        arguments,
        data={"name": "fashion_mnist", "normalization": "mnist"},
        reconstruction={"first_limit": 800, "later_limit": 2000},
    )
