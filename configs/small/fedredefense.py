"""FedREDefense's tables in small: Fashion-MNIST, a small CNN, one step a round.

    python launch/run.py --config=configs/small/fedredefense.py:attack=min_max \
        --config.data.data_dir=DIR --workdir=runs/small_fedredefense

Arguments: see `papers.fedredefense.small`. DIR holds the four official IDX files.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.fedredefense.small import small


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return small(arguments)
