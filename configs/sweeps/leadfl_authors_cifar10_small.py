"""LeadFL's Table II as its code runs it, on less data: the preset `authors`.

    python launch/sweep.py --sweep=configs/sweeps/leadfl_authors_cifar10_small.py \
        --results=runs/leadfl_authors_cifar10 --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/leadfl_authors_cifar10 \
        --layout=leadfl_table2 --out=runs/leadfl_authors_cifar10/report

12 runs of configs/leadfl/cifar10.py:preset=authors: what
`leadfl_authors_small.py` lists, and softmax twice, with batches of 32 and the
augmentation of the code. In small: the first 6000 training images instead of 50 000, so
that an epoch has 2 steps instead of 16, 1000 test images, 14 rounds instead of 80. DIR
holds `cifar-10-batches-py`.
"""

from fedjax_sim.papers.leadfl.protocol import CLIENT_DEFENSES
from fedjax_sim.sweeps import Sweep, product


def get_sweep() -> Sweep:
    """12 runs."""
    return Sweep(
        "configs/small/leadfl_authors.py:data=cifar10",
        product({":client": CLIENT_DEFENSES, ":offset": (100, 200, 300)}),
    )
