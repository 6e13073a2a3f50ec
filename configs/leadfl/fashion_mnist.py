"""LeadFL on Fashion-MNIST: 100 clients, 25 malicious, 10 a round, 80 rounds.

    python launch/run.py \
        --config=configs/leadfl/fashion_mnist.py:client=leadfl,mode=bursty \
        --config.data.data_dir=DIR --workdir=runs/leadfl_fashion_mnist

Arguments: see `papers.leadfl.protocol`. DIR holds the four official IDX
files. Published (Multi-Krum, nine pixels, IID; none / LDP / FL-WBC / LeadFL): MTA 89.3
/ 87 / 87.2 / 87.9, mean ASR 82.6 / 76.0 / 77.5 / 32.9, final ASR 93.2 / 79.6 / 80.6 /
0.0 (target class included: `asr_all`).
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.leadfl.protocol import FASHION_MNIST, leadfl


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the tables."""
    return leadfl(arguments, **FASHION_MNIST)
