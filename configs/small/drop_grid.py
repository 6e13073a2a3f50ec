"""DROP's grid of learning configurations in small: digits, a small network.

    python launch/run.py --config=configs/small/drop_grid.py:lr=0.2,epochs=5 \
        --workdir=runs/small_grid

Arguments: see `papers.drop.small`.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.drop.small import small_grid


def get_config(arguments: str = "") -> ConfigDict:
    """One point of the paper's Figure 2."""
    return small_grid(arguments)
