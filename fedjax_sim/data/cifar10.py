"""CIFAR-10 from the official "python version" or "binary version" (Krizhevsky 2009)."""

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data.archives import Place
from fedjax_sim.data.cifar_pickles import read_binary, read_pickle
from fedjax_sim.data.dataset import Origin, verified
from fedjax_sim.data.places import located

CIFAR10 = Origin(
    "cifar10",
    "cifar-10-batches-py/ with data_batch_1..5 and test_batch, cifar-10-batches-bin/ "
    "with data_batch_1..5.bin and test_batch.bin, or cifar-10-python|binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-10 python version)",
)
_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def read_batch(path: Place) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]) of one batch file."""
    if path.suffix == ".bin":
        return read_binary(path, 1, 0, CIFAR10)
    return read_pickle(path, b"labels", CIFAR10)


def read_folder(
    folder: Place, *, num_train: int, num_test: int, ends: str = ""
) -> Dataset:
    """Reads the six batch files in `folder`; the counts are those expected."""
    *batches, test = [read_batch(folder / (name + ends)) for name in _FILES]
    return verified(
        Dataset(
            CIFAR10.name,
            np.concatenate([images for images, _ in batches]),
            np.concatenate([labels for _, labels in batches]),
            *test,
            10,
        ),
        CIFAR10,
        image_shape=(32, 32, 3),
        num_train=num_train,
        num_test=num_test,
    )


@checked("data")
def load_cifar10(*, data_dir: str | None = None) -> Dataset:
    """CIFAR-10, 50 000 + 10 000 colour images of 32x32 in the official order."""
    first = located(
        data_dir,
        (
            f"cifar-10-batches-py/{_FILES[0]}",
            _FILES[0],
            f"cifar-10-batches-bin/{_FILES[0]}.bin",
            f"{_FILES[0]}.bin",
        ),
        CIFAR10,
        ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    )
    return read_folder(
        first.parent, num_train=50_000, num_test=10_000, ends=first.suffix
    )
