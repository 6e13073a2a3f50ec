"""PoisonedFL in small: Fashion-MNIST, 800 genuine clients, 160 rounds.

    python launch/run.py --config=configs/small/poisonedfl.py:defense=median,fakes=9 \
        --config.data.data_dir=DIR --workdir=runs/small_poisonedfl

Arguments: see `papers.poisonedfl.small`. DIR holds the four official IDX files.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.poisonedfl.small import small


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return small(arguments)
