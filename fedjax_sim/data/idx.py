"""The IDX format of MNIST and its family.

IDX: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values. Files are read as
they are or packed, whatever their name ends with.
"""

import math
from typing import NamedTuple

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin, verified
from fedjax_sim.data.files import content, holds, look

_UNSIGNED_BYTE = 8
_KINDS = (("images", 3), ("labels", 1))  # with their dimensions


class Official(NamedTuple):
    """What is known of a data set of this family."""

    num_classes: int
    num_train: int
    num_test: int
    class_sizes: tuple[int, ...] | None = None  # training images; None: any will do
    first_label: int = 0  # in the files; ours are from 0
    other: tuple[int, int] | None = None  # images of another release, that goes as well


def read_idx(path: Place, origin: Origin) -> np.ndarray:
    """Returns the unsigned bytes of an IDX file in the shape that its head states."""
    found = content(path, origin)
    if len(found) < 4 or found[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise origin.error(
            f"'{path}' is not an IDX file of unsigned bytes; it looks like "
            f"{look(found)}"
        )
    num_dims = found[3]
    head = 4 + 4 * num_dims
    if num_dims == 0 or len(found) < head:
        raise origin.error(f"'{path}' is truncated inside its head")
    shape = [int(size) for size in np.frombuffer(found[4:head], ">u4")]
    if len(found) - head != math.prod(shape):
        raise origin.error(
            f"'{path}' is truncated or damaged: {len(found) - head} bytes of "
            f"values, {math.prod(shape)} for its shape {shape} expected"
        )
    return np.frombuffer(found, np.uint8, offset=head).reshape(shape)


def _names(prefix: str, kind: str, num_dims: int) -> list[str]:
    """The names that such a file has where people have it."""
    official = f"{prefix}-{kind}-idx{num_dims}-ubyte"
    dotted = f"{prefix}-{kind}.idx{num_dims}-ubyte"
    names = [name + end for name in (official, dotted) for end in ("", ".gz", ".zip")]
    # Kaggle unpacks a file into a folder of the file's own name.
    inner = [f"{name}/{own}" for name in names for own in (official, dotted)]
    return names + inner


def find_file(folder: Place, prefix: str, kind: str, num_dims: int) -> Place | None:
    """Returns one file of a set under any of its names, None without one."""
    for name in _names(prefix, kind, num_dims):
        if (folder / name).is_file():
            return folder / name
    return None


def has_pairs(folder: Place, prefixes: tuple[str, str]) -> bool:
    """Whether any file of the set lies there."""
    return any(
        find_file(folder, prefix, *kind) is not None
        for prefix in prefixes
        for kind in _KINDS
    )


def read_pairs(
    folder: Place, prefixes: tuple[str, str], origin: Origin, official: Official
) -> Dataset:
    """Reads `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte` pairs.

    Args:
      folder: that holds them.
      prefixes: of the training and of the test files.
      origin: for error messages.
      official: sizes to expect.
    """
    parts = []
    for prefix in prefixes:
        for kind, num_dims in _KINDS:
            path = find_file(folder, prefix, kind, num_dims)
            if path is None:
                raise origin.error(
                    f"'{prefix}-{kind}-idx{num_dims}-ubyte' does not exist in "
                    f"'{folder}'; {holds(folder)}"
                )
            values = read_idx(path, origin)
            if values.ndim != num_dims:
                raise origin.error(
                    f"'{path}' has {values.ndim} dimensions, {num_dims} expected"
                )
            parts.append(values)
    return complete(parts, origin, official)


def complete(parts: list[np.ndarray], origin: Origin, official: Official) -> Dataset:
    """Returns the data set of (training images, labels, test images, labels).

    Args:
      parts: images are uint8 [images, H, W].
      origin: for error messages.
      official: sizes to expect.
    """
    images, labels, test_images, test_labels = parts
    labels, test_labels = (
        found.astype(np.int32) - official.first_label for found in (labels, test_labels)
    )
    counts = (official.num_train, official.num_test)
    if (len(images), len(test_images)) == official.other:
        counts = official.other
    dataset = verified(
        Dataset(
            origin.name,
            images[..., None],
            labels,
            test_images[..., None],
            test_labels,
            official.num_classes,
        ),
        origin,
        image_shape=(28, 28, 1),
        num_train=counts[0],
        num_test=counts[1],
    )
    if official.class_sizes is not None:
        found = np.bincount(dataset.train_labels, minlength=official.num_classes)
        if tuple(found.tolist()) != official.class_sizes:
            raise origin.error(
                f"training images per class are {found.tolist()}, "
                f"{list(official.class_sizes)} expected"
                " (files of another data set with the same names?)"
            )
    return dataset
