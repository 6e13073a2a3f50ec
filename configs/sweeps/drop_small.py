"""All ten defences of DROP in small: poisoning rate by heterogeneity, three seeds.

    python launch/sweep.py --sweep=configs/sweeps/drop_small.py --results=runs/small \
        --processes=2
    python launch/report.py --results=runs/small --rows=defense.name \
        --columns=partition.name,attack.dpr --values=mta,asr --out=runs/small/report

180 runs on the embedded digits. The rates are the paper's 1.25, 2.5 and 5 % of all
samples. The layouts' `--small` is another version, with more images a client.
"""

from fedjax_sim.papers.drop.small import DEFENSES
from fedjax_sim.sweeps import Sweep, product, seeds


def get_sweep() -> Sweep:
    """180 runs."""
    return Sweep(
        "configs/small/drop.py",
        product(
            {":defense": DEFENSES, ":alpha": (0, 1.0), ":dpr": (1.25, 2.5, 5.0)},
            seeds(3),
        ),
    )
