"""PoisonedFL on CIFAR-10: 1200 genuine clients and 240 fakes, 36 a round.

    python launch/run.py \
        --config=configs/poisonedfl/cifar10.py:defense=prodigy,adaptation=noise \
        --config.data.data_dir=DIR --workdir=runs/poisonedfl_cifar10

Arguments: see `papers.poisonedfl.protocol`. 10000 rounds.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.poisonedfl.protocol import poisonedfl


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return poisonedfl(
        arguments,
        data={"name": "cifar10", "normalization": "unit"},
        rounds=10000,
        lr=0.03,
        degree=0.2,
    )
