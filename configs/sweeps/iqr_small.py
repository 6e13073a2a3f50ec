"""The IQR / Clip-Avg article in small: success of a hidden backdoor over the rounds.

    python launch/sweep.py --sweep=configs/sweeps/iqr_small.py \
        --results=runs/iqr_small --processes=2 --config.data.data_dir=DIR
    python launch/report.py --results=runs/iqr_small --rows=defense.name \
        --columns=attack.alpha --values=mta,asr_all --out=runs/iqr_small/report

The report draws the rates over the rounds. 16 runs on the first 10 000 training and
2000 test images of Fashion-MNIST with a small CNN; DIR holds the four official IDX
files. The article's roles: 50 clients, 10 a round, one of them malicious, batches of 64
of which 0, 1, 3 or 6 images (alpha 0, 0.03, 0.052, 0.1) get a block and the label 5;
success counts all triggered images (`asr_all`), so no attack gives about 10 %. Beside
data and network, the learning rate is larger: 0.1 instead of 0.01.
"""

from fedjax_sim.papers.iqr.protocol import DEFENSES
from fedjax_sim.sweeps import Sweep, product


def get_sweep() -> Sweep:
    """16 runs."""
    return Sweep(
        "configs/small/iqr.py",
        product({":defense": DEFENSES, ":alpha": (0.0, 0.03, 0.052, 0.1)}),
    )
