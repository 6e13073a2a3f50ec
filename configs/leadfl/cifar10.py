"""LeadFL on CIFAR-10: 100 clients, 25 malicious, 10 a round, 80 rounds.

    python launch/run.py \
        --config=configs/leadfl/cifar10.py:client=leadfl,mode=bursty \
        --config.data.data_dir=DIR --workdir=runs/leadfl_cifar10

Arguments: see `papers.leadfl.protocol`. DIR holds `cifar-10-batches-py`.
Published (Multi-Krum, nine pixels, IID; none / LDP / FL-WBC / LeadFL): MTA 76.3 / 48.0
/ 43.3 / 56.9, mean ASR 77.5 / 53.1 / 56.9 / 35.6, final ASR 80.5 / 43.8 / 40.5 / 25.6
(target class included: `asr_all`).
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.leadfl.protocol import CIFAR10, leadfl


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the tables."""
    return leadfl(arguments, **CIFAR10)
