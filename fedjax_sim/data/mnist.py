"""MNIST and Fashion-MNIST, whose files have the same names and shapes."""

import hashlib
from typing import NamedTuple

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.core.progress import note
from fedjax_sim.data.archives import Place
from fedjax_sim.data.csv_tables import read_numbers
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.idx import Official, complete, find_file, has_pairs, read_pairs
from fedjax_sim.data.places import nothing_found, places

_PREFIXES = ("train", "t10k")
# MD5 of KMNIST's train-images-idx3-ubyte.gz: it has the class sizes of Fashion-MNIST.
_KMNIST = "bdb82020997e1d708af4cf47b453dcf7"
_FILES = (
    "train|t10k-images-idx3-ubyte[.gz], train|t10k-labels-idx1-ubyte[.gz] "
    "(or a table of labels and pixels: {0}_train.csv, {0}_test.csv)"
)
MNIST = Origin("mnist", _FILES.format("mnist"), "http://yann.lecun.com/exdb/mnist/")
FASHION_MNIST = Origin(
    "fashion_mnist",
    _FILES.format("fashion-mnist"),
    "https://github.com/zalandoresearch/fashion-mnist",
)


class Family(NamedTuple):
    """One of the data sets whose files are called so.

    Attributes:
      origin: its name and source.
      folders: where the files are, below the data folder.
      tables: the training and the test table of the same images.
      official: sizes; the classes tell MNIST from Fashion-MNIST.
      digest: MD5 of the official training images, unpacked.
    """

    origin: Origin
    folders: tuple[str, ...]
    tables: tuple[str, str]
    official: Official
    digest: str


_MNIST = Family(
    MNIST,
    ("MNIST/raw", "mnist", "MNIST", "."),
    ("mnist_train.csv", "mnist_test.csv"),
    Official(
        10,
        60_000,
        10_000,
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ),
    "6bbc9ace898e44ae57da46a324031adb",
)
_FASHION_MNIST = Family(
    FASHION_MNIST,
    ("FashionMNIST/raw", "fashion-mnist", "fashion_mnist", "FashionMNIST", "."),
    ("fashion-mnist_train.csv", "fashion-mnist_test.csv"),
    Official(10, 60_000, 10_000, (6000,) * 10),
    "f4a8712d7a061bf5bd6d2ca38dc4d50a",
)


def digest(images: np.ndarray) -> str:
    """Returns the MD5 of the unpacked IDX file of uint8 [images, H, W, 1].

    It is that of the official file, whatever the images were read from.
    """
    shape = images.shape[:3]
    head = bytes((0, 0, 8, 3)) + np.array(shape, ">u4").tobytes()
    found = hashlib.md5(head, usedforsecurity=False)
    found.update(np.ascontiguousarray(images).reshape(-1).data)
    return found.hexdigest()


def read_csv(
    folder: Place, names: tuple[str, str], origin: Origin, official: Official
) -> Dataset:
    """Reads tables of a label and 784 pixels a row, named or not."""
    parts = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise origin.error(f"'{path}' does not exist beside the other table")
        values = read_numbers(path, origin)
        if values.shape[1] != 785:
            raise origin.error(
                f"'{path}' has {values.shape[1]} columns, 785 expected: a label and "
                "784 pixels"
            )
        parts += [np.ascontiguousarray(values[:, 1:]).reshape(-1, 28, 28), values[:, 0]]
    return complete(parts, origin, official)


def read_family(data_dir: str | None, family: Family) -> Dataset:
    """Reads what lies in the data folder, and says if it is not the official set.

    Raises:
      InputError: there is nothing that we know, or it is damaged or another set.
    """
    origin, official = family.origin, family.official
    for place in places(data_dir, origin):
        for name in family.folders:
            folder = place / name
            if has_pairs(folder, _PREFIXES):
                dataset = read_pairs(folder, _PREFIXES, origin, official)
            elif (folder / family.tables[0]).is_file():
                dataset = read_csv(folder, family.tables, origin, official)
            else:
                continue
            _compare(dataset, folder, family)
            return dataset
    looked_for = (*(f"{name}/train-images-idx3-ubyte" for name in family.folders),)
    raise nothing_found(data_dir, (*looked_for, family.tables[0]), origin)


def _compare(dataset: Dataset, folder: Place, family: Family) -> None:
    """Refuses KMNIST, and says it of other images that are not the official ones."""
    origin, found = family.origin, digest(dataset.train_images)
    if found == family.digest:
        return
    path = find_file(folder, "train", "images", 3)
    packed = path.read_bytes() if path is not None else b""
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() == _KMNIST:
        raise origin.error(f"'{path}' is that of KMNIST, another data set")
    note(
        f"WARNING: data set '{origin.name}': the training images in '{folder}' are not "
        f"the official ones (MD5 {found}, official {family.digest}): another data set "
        "of these names (KMNIST?), another order or other pixels; official source: "
        f"{origin.url}"
    )


@checked("data")
def load_mnist(*, data_dir: str | None = None) -> Dataset:
    """MNIST, 60 000 + 10 000 grey images of 28x28 (LeCun et al. 1998)."""
    return read_family(data_dir, _MNIST)


@checked("data")
def load_fashion_mnist(*, data_dir: str | None = None) -> Dataset:
    """Fashion-MNIST, 60 000 + 10 000 grey images of 28x28 (Xiao et al. 2017)."""
    return read_family(data_dir, _FASHION_MNIST)
