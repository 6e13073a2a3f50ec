"""LeadFL's Table I as its code runs it, on less data: the preset `authors`.

    python launch/sweep.py --sweep=configs/sweeps/leadfl_authors_small.py \
        --results=runs/leadfl_authors --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/leadfl_authors --layout=leadfl_table1 \
        --out=runs/leadfl_authors/report

12 runs of configs/leadfl/fashion_mnist.py:preset=authors (ten local epochs with a
reset in each, batches of 16, a learning rate of 0.01, the forced rounds 0, 10 and 12,
triggers in another library's constants, batch statistics at test time; Multi-Krum; the
published clients of a round, three repetitions, 80 rounds). In small: the first 6000
training images instead of 60 000, so that an epoch has 4 steps instead of 38, and 1000
test images. DIR holds the four official IDX files.
"""

from fedjax_sim.papers.leadfl.protocol import CLIENT_DEFENSES
from fedjax_sim.sweeps import Sweep, product


def get_sweep() -> Sweep:
    """12 runs."""
    return Sweep(
        "configs/small/leadfl_authors.py:data=fashion_mnist",
        product({":client": CLIENT_DEFENSES, ":offset": (100, 200, 300)}),
    )
