"""The data set every source returns, and the checks all sources share.

Letters: M training images, T test images, H x W pixels, C channels.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError

_MOST_CLASSES = 1_000_000


class Origin(NamedTuple):
    """What an error message says about where the files of a data set come from."""

    name: str  # as the user writes it in data.name
    layout: str  # the files expected below the data folder
    url: str  # the official page

    def error(self, problem: str) -> InputError:
        """Returns the one-line error: the problem, the layout, the official source."""
        problem = " ".join(str(problem).split())
        return InputError(
            f"data set '{self.name}': {problem}; expected {self.layout} below "
            f"--config.data.data_dir=DIR; official source: {self.url}"
        )


def fingerprint(dataset: Dataset) -> str:
    """Returns 16 hex digits that tell data sets apart, whatever they are called."""
    digest = hashlib.blake2b(digest_size=8)
    for array in dataset[1:5]:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def first_samples(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns int [count]: the samples that stand for a whole set, ascending.

    They are the first ones, unless the set is ordered by class: then of each class its
    share, drawn with a fixed seed, for the first ones would be of few classes only.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    ordered = np.count_nonzero(np.diff(labels)) < 2 * len(classes)
    if not ordered or count == len(labels):
        return np.arange(count)
    rng = np.random.default_rng(0)
    exact = count * sizes / len(labels)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def verified(
    dataset: Dataset,
    origin: Origin,
    *,
    image_shape: tuple[int, int, int] | None,
    num_train: int | None,
    num_test: int | None,
) -> Dataset:
    """Returns `dataset` with canonical dtypes, or raises what is wrong with it.

    `image_shape` (H, W, C), `num_train` and `num_test` are the official figures;
    None leaves that one unchecked.
    """
    groups = dataset.train_groups
    if groups is not None and groups.shape != dataset.train_labels.shape:
        raise origin.error(
            f"{len(dataset.train_labels)} training labels but {len(groups)} writers"
        )
    if dataset.num_classes > _MOST_CLASSES:
        raise origin.error(
            f"labels up to {dataset.num_classes - 1}, at most {_MOST_CLASSES} classes "
            "expected"
        )
    parts = []
    for split, images, labels, expected in (
        ("training", dataset.train_images, dataset.train_labels, num_train),
        ("test", dataset.test_images, dataset.test_labels, num_test),
    ):
        if len(images) != len(labels):
            raise origin.error(
                f"{len(images)} {split} images but {len(labels)} {split} labels"
            )
        if len(images) == 0:
            raise origin.error(f"no {split} images")
        if expected is not None and len(images) != expected:
            raise origin.error(
                f"{len(images)} {split} images found, {expected} expected"
            )
        shape = image_shape or dataset.train_images.shape[1:]
        if images.dtype != np.uint8 or images.shape[1:] != tuple(shape):
            raise origin.error(
                f"{split} images are {images.dtype}{list(images.shape[1:])}, "
                f"uint8{list(shape)} expected"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= dataset.num_classes:
            raise origin.error(
                f"{split} labels lie in {low}..{high}, "
                f"0..{dataset.num_classes - 1} expected"
            )
        parts += [images, labels.astype(np.int32)]
    images, labels, test_images, test_labels = parts
    return dataset._replace(
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
        train_groups=None if groups is None else groups.astype(np.int32),
    )


Split = tuple[np.ndarray, np.ndarray]  # images and labels


def assembled(
    origin: Origin,
    train: Split,
    test: Split,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    groups: np.ndarray | None = None,
) -> Dataset:
    """Returns the data set of two splits, or raises what is wrong with it.

    Args:
      origin: its name and source.
      train: uint8 [M, H, W, C] and int [M].
      test: uint8 [T, H, W, C] and int [T].
      num_classes: labels are below it.
      image_shape, num_train, num_test: see `verified`.
      groups: int [M], whose sample each training sample is.
    """
    return verified(
        Dataset(origin.name, *train, *test, num_classes, groups),
        origin,
        image_shape=image_shape,
        num_train=num_train,
        num_test=num_test,
    )
