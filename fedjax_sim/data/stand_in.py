"""Data sets by their sizes alone: what a plan needs of files that are not here."""

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.digits import load_digits

# Training and test images, height = width, channels, classes, as published.
SIZES = {
    "cifar10": (50_000, 10_000, 32, 3, 10),
    "cifar100": (50_000, 10_000, 32, 3, 100),
    "cinic10": (180_000, 90_000, 32, 3, 10),
    "emnist": (112_800, 18_800, 28, 1, 47),
    "fashion_mnist": (60_000, 10_000, 28, 1, 10),
    "gtsrb": (26_640, 12_630, 32, 3, 43),
    "mnist": (60_000, 10_000, 28, 1, 10),
}


def stand_in(config: Config) -> Dataset:
    """Returns black images with the labels in turn, as many as the config takes.

    Of `emnist` the split `balanced`, of `cinic10` without `use_valid` half of the
    training images.

    Raises:
      InputError: no sizes of such a data set are known.
    """
    data = config.data
    if data.name == "digits":
        return load_digits()
    if data.name not in SIZES:
        raise InputError(
            f"config.data.name = {data.name!r}: its size is not known without its "
            f"files; known: digits, {', '.join(SIZES)}"
        )
    train, test, side, channels, classes = SIZES[data.name]
    if data.name == "cinic10" and data.options.get("use_valid") is False:
        train //= 2
    train, test = data.num_train or train, data.num_test or test

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((count, side, side, channels), np.uint8)
        return images, np.arange(count, dtype=np.int32) % classes

    train_images, train_labels = part(train)
    test_images, test_labels = part(test)
    return Dataset(
        name=data.name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=classes,
    )
