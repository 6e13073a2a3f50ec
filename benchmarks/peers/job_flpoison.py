"""The job of `benchmarks.peers` in FLPoison, run by the Python of its environment.

    python job_flpoison.py CHECKOUT DATA ROUNDS

FLPoison is a repository and no package. Its `local_epochs` counts mini-batches, a
client's momentum lives across rounds, and Fashion-MNIST has no transformation for this
network: it is given that of CINIC-10.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

checkout, data, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, str(checkout))
folder = Path(tempfile.mkdtemp())
(folder / "data").symlink_to(data)
os.chdir(folder)

import main  # noqa: E402
from datapreprocessor import data_utils  # noqa: E402
from torchvision import transforms  # noqa: E402


def get_transform(args):
    """Pixels from 0 to 1, then standardised, for training and test."""
    chain = [transforms.ToTensor(), transforms.Normalize(args.mean, args.std)]
    return transforms.Compose(chain), transforms.Compose(chain)


data_utils.get_transform = get_transform
evaluate = main.coordinator.evaluate


def timed(*arguments):
    """Says when a round has been evaluated."""
    found = evaluate(*arguments)
    accuracy = 100 * found["Test Acc"]
    print(
        f"round {arguments[-1] + 1} {time.monotonic():.3f} {accuracy:.2f}", flush=True
    )
    return found


main.coordinator.evaluate = timed
main.fl_run(
    SimpleNamespace(
        seed=4,
        epochs=rounds,
        algorithm="FedAvg",
        optimizer="SGD",
        momentum=0.9,
        weight_decay=0.0,
        num_clients=20,
        batch_size=64,
        learning_rate=0.05,
        local_epochs=20,
        model="simplecnn",
        dataset="FashionMNIST",
        num_dims=28,
        num_channels=1,
        num_classes=10,
        num_training_sample=60000,
        mean=(0.2859,),
        std=(0.3530,),
        distribution="iid",
        cache_partition=False,
        num_workers=0,
        record_time=False,
        num_adv=0,
        attack="NoAttack",
        attack_params=None,
        defense="Mean",
        defense_params=None,
        device="cpu",
        output=str(folder / "log.txt"),
    )
)
