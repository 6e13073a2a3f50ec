"""PoisonedFL on MNIST: 1200 genuine clients and 240 fakes, 36 a round.

    python launch/run.py \
        --config=configs/poisonedfl/mnist.py:defense=prodigy,adaptation=noise \
        --config.data.data_dir=DIR --workdir=runs/poisonedfl_mnist

Arguments: see `papers.poisonedfl.protocol`. 6000 rounds.
"""

from ml_collections import ConfigDict

from fedjax_sim.papers.poisonedfl.protocol import poisonedfl


def get_config(arguments: str = "") -> ConfigDict:
    """One cell of the paper's tables."""
    return poisonedfl(
        arguments,
        data={"name": "mnist", "normalization": "unit"},
        rounds=6000,
        lr=0.01,
        degree=0.5,
    )
