"""LeadFL as its code runs it, on less data: the preset `authors`.

    python launch/run.py \
        --config=configs/small/leadfl_authors.py:client=leadfl,offset=200 \
        --config.data.data_dir=DIR --workdir=runs/small_leadfl_authors

Arguments: those of `configs/leadfl/*.py`, and `data`: see `papers.leadfl.small`. DIR
holds the official files of the data set.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.leadfl.small import small_authors


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the tables."""
    return small_authors(arguments)
