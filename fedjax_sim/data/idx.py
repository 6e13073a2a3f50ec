"""Data sets in the IDX format: MNIST, Fashion-MNIST, EMNIST.

IDX: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values. Files are read as
they are or gzipped.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data.dataset import Origin, data_folder, first_existing, verified

_UNSIGNED_BYTE = 8
_MNIST_FILES = "train|t10k-images-idx3-ubyte[.gz], train|t10k-labels-idx1-ubyte[.gz]"
MNIST = Origin("mnist", _MNIST_FILES, "http://yann.lecun.com/exdb/mnist/")
FASHION_MNIST = Origin(
    "fashion_mnist", _MNIST_FILES, "https://github.com/zalandoresearch/fashion-mnist"
)
EMNIST = Origin(
    "emnist",
    "emnist-SPLIT-train|test-images-idx3-ubyte[.gz], "
    "emnist-SPLIT-train|test-labels-idx1-ubyte[.gz]",
    "https://www.nist.gov/itl/products-and-services/emnist-dataset",
)

# The two data sets have equal file names and shapes: only their class sizes tell
# that one was unpacked in the place of the other.
_MNIST_CLASSES = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
_FASHION_CLASSES = (6000,) * 10

# split -> (training images, test images, classes), from the page of EMNIST.
_EMNIST_SPLITS = {
    "balanced": (112_800, 18_800, 47),
    "byclass": (697_932, 116_323, 62),
}


def read_idx(path: Path, origin: Origin) -> np.ndarray:
    """Returns the unsigned bytes of an IDX file in the shape that its head states."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise origin.error(f"cannot read '{path}' ({error})") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise origin.error(f"'{path}' is not an IDX file of unsigned bytes")
    num_dims = content[3]
    head = 4 + 4 * num_dims
    if num_dims == 0 or len(content) < head:
        raise origin.error(f"'{path}' is truncated inside its head")
    shape = [int(size) for size in np.frombuffer(content[4:head], ">u4")]
    if len(content) - head != math.prod(shape):
        raise origin.error(
            f"'{path}' is truncated or damaged: {len(content) - head} bytes of "
            f"values, {math.prod(shape)} for its shape {shape} expected"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def read_pairs(
    folders: list[Path],
    prefixes: tuple[str, str],
    origin: Origin,
    *,
    num_classes: int,
    num_train: int,
    num_test: int,
    class_sizes: tuple[int, ...] | None = None,
) -> Dataset:
    """Reads `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte` pairs.

    Args:
      folders: where to look for each file, in this order.
      prefixes: of the training and of the test files.
      origin: for error messages.
      num_classes: official number of classes.
      num_train: official number of training images.
      num_test: official number of test images.
      class_sizes: training images per class; None if any will do.
    """

    def read(prefix: str, kind: str, num_dims: int) -> np.ndarray:
        name = f"{prefix}-{kind}-idx{num_dims}-ubyte"
        path = first_existing(
            [folder / (name + end) for folder in folders for end in ("", ".gz")],
            origin,
        )
        values = read_idx(path, origin)
        if values.ndim != num_dims:
            raise origin.error(
                f"'{path}' has {values.ndim} dimensions, {num_dims} expected"
            )
        return values

    train, test = prefixes
    dataset = verified(
        Dataset(
            origin.name,
            read(train, "images", 3)[..., None],
            read(train, "labels", 1),
            read(test, "images", 3)[..., None],
            read(test, "labels", 1),
            num_classes,
        ),
        origin,
        image_shape=(28, 28, 1),
        num_train=num_train,
        num_test=num_test,
    )
    if class_sizes is not None:
        found = np.bincount(dataset.train_labels, minlength=num_classes).tolist()
        if found != list(class_sizes):
            raise origin.error(
                f"training images per class are {found}, {list(class_sizes)} expected"
                " (files of another data set with the same names?)"
            )
    return dataset


@checked("data")
def load_mnist(*, data_dir: str | None = None) -> Dataset:
    """MNIST, 60 000 + 10 000 grey images of 28x28 (LeCun et al. 1998)."""
    root = data_folder(data_dir, MNIST)
    return read_pairs(
        [root / "MNIST" / "raw", root / "mnist", root],
        ("train", "t10k"),
        MNIST,
        num_classes=10,
        num_train=60_000,
        num_test=10_000,
        class_sizes=_MNIST_CLASSES,
    )


@checked("data")
def load_fashion_mnist(*, data_dir: str | None = None) -> Dataset:
    """Fashion-MNIST, 60 000 + 10 000 grey images of 28x28 (Xiao et al. 2017)."""
    root = data_folder(data_dir, FASHION_MNIST)
    return read_pairs(
        [root / "FashionMNIST" / "raw", root / "fashion-mnist", root],
        ("train", "t10k"),
        FASHION_MNIST,
        num_classes=10,
        num_train=60_000,
        num_test=10_000,
        class_sizes=_FASHION_CLASSES,
    )


@checked("data")
def load_emnist(
    *,
    data_dir: str | None = None,
    split: Literal["balanced", "byclass"] = "balanced",
) -> Dataset:
    """EMNIST, grey images of 28x28 (Cohen et al. 2017).

    Images keep the orientation of the files, which is transposed; DROP's code
    trains and triggers them like this.

    Args:
      data_dir: folder that holds the files.
      split: `balanced`, 112 800 + 18 800 images of 47 classes (DROP's code);
        `byclass`, 697 932 + 116 323 images of 62 classes.
    """
    root = data_folder(data_dir, EMNIST)
    num_train, num_test, num_classes = _EMNIST_SPLITS[split]
    return read_pairs(
        [root / "EMNIST" / "raw", root / "emnist", root / "gzip", root],
        (f"emnist-{split}-train", f"emnist-{split}-test"),
        EMNIST,
        num_classes=num_classes,
        num_train=num_train,
        num_test=num_test,
    )
