"""DROP's tables in small: digits, a small CNN, 20 clients.

    python launch/run.py --config=configs/small/drop.py:defense=drop,dpr=2.5 \
        --workdir=runs/small_drop

Arguments: see `papers.drop.small`. What it gives beside the published values:
docs/results.md.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.drop.small import small


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return small(arguments)
