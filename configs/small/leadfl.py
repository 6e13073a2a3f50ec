"""LeadFL's tables in small: the report's preset, small CNNs, 20 000 images.

    python launch/run.py --config=configs/small/leadfl.py:client=leadfl,mode=bursty \
        --config.data.data_dir=DIR --workdir=runs/small_leadfl

Arguments: see `papers.leadfl.small`. DIR holds the official files of the data set.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.leadfl.small import small


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the tables."""
    return small(arguments)
