"""The IQR article in small: Fashion-MNIST, a small CNN, 60 rounds.

    python launch/run.py --config=configs/small/iqr.py:defense=fedavg,alpha=0.1 \
        --config.data.data_dir=DIR --workdir=runs/small_iqr

Arguments: see `papers.iqr.small`. DIR holds the four official IDX files.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.iqr.small import small


def get_config(arguments: str = "") -> ConfigDict:
    """One point of the article's curves."""
    return small(arguments)
