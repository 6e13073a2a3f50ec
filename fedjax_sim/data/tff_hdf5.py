"""TensorFlow Federated's HDF5 files: FEMNIST and CIFAR-100, a group for each client."""

import io
from typing import Any

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import content, look
from fedjax_sim.data.groups import numbered
from fedjax_sim.data.places import located

TFF = Origin(
    "tff_hdf5",
    "fed_emnist_train.h5 and fed_emnist_test.h5, fed_emnist_digitsonly_*.h5 or "
    "fed_cifar100_*.h5 (or fed_emnist.tar.bz2, ... as they are)",
    "https://www.tensorflow.org/federated/api_docs/python/tff/simulation/datasets",
)
_CLASSES = {"fed_emnist": 62, "fed_emnist_digitsonly": 10, "fed_cifar100": 100}
_ARCHIVES = tuple(f"{name}.tar.bz2" for name in _CLASSES)


def read_split(path: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images uint8 [M, H, W, C], labels int64 [M] and their clients [M].

    Raises:
      InputError: h5py is not installed, or it is no such file.
    """
    try:
        import h5py  # Optional, and slow to import.
    except ImportError as error:
        raise InputError(
            "data set 'tff_hdf5' needs h5py: pip install 'fedjax_sim[hdf5]'"
        ) from error
    found = content(path, TFF)
    names: list[str] = []
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    try:
        with h5py.File(io.BytesIO(found)) as file:
            for name, client in file["examples"].items():
                images.append(_pixels(client))
                labels.append(np.asarray(client["label"], np.int64).reshape(-1))
                names += [name] * len(labels[-1])
        return np.concatenate(images), np.concatenate(labels), np.array(names)
    except Exception as error:  # a damaged file fails in many ways
        raise TFF.error(
            f"'{path}' is not a file of TensorFlow Federated's images; it looks like "
            f"{look(found)} ({type(error).__name__}: {error})"
        ) from error


def _pixels(client: Any) -> np.ndarray:
    """The images of a client: bytes as they are, numbers from 0 to 1 as bytes."""
    key = "pixels" if "pixels" in client else "image"
    values = np.asarray(client[key])
    if values.dtype != np.uint8:
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{key} outside 0..1")
        values = np.rint(values * 255).astype(np.uint8)
    return values[..., None] if values.ndim == 3 else values


@checked("data")
def load_tff_hdf5(*, data_dir: str | None = None) -> Dataset:
    """FEMNIST or CIFAR-100 of TensorFlow Federated; training samples know their client.

    Of several sets in one folder the first is read: fed_emnist, its digits, CIFAR-100.
    The test sets of all clients are one test set.

    Args:
      data_dir: folder that holds the files.
    """
    candidates = tuple(f"{name}_train.h5" for name in _CLASSES)
    train = located(data_dir, candidates, TFF, _ARCHIVES)
    stem = train.name.removesuffix("_train.h5")
    images, labels, clients = read_split(train)
    test_images, test_labels, _ = read_split(train.parent / f"{stem}_test.h5")
    return assembled(
        TFF,
        (images, labels),
        (test_images, test_labels),
        _CLASSES[stem],
        groups=numbered(clients),
    )
