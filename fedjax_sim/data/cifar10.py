"""CIFAR-10 from the official "python version" (Krizhevsky 2009)."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data.dataset import Origin, data_folder, first_existing, verified

CIFAR10 = Origin(
    "cifar10",
    "cifar-10-batches-py/ with data_batch_1..5 and test_batch",
    "https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-10 python version)",
)
_TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST_FILE = "test_batch"


class _Dtype:
    """Stands for `numpy.dtype`: remembers its code and ignores everything else."""

    def __init__(self, code: str | bytes, *_: Any):
        self.is_uint8 = code in ("u1", b"u1")

    def __setstate__(self, state: Any):
        del state


class _Array:
    """Stands for `numpy.ndarray`: takes its values if they are plain bytes."""

    def __init__(self, *_: Any):
        self.values = np.zeros((0, 0), np.uint8)

    def __setstate__(self, state: tuple):
        _, shape, dtype, is_fortran, content = state
        if not dtype.is_uint8:
            raise pickle.UnpicklingError("an array is not of type uint8")
        values = np.frombuffer(content, np.uint8)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")


# Everything the official files name, each replaced by a stand-in that can do
# nothing. A pickle may name any callable; what is not listed here is refused.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written with NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, bytes, numbers and arrays of bytes, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which the official files do not"
            ) from None


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]) of one batch file."""
    try:
        stream = io.BytesIO(path.read_bytes())
        batch = _ArrayUnpickler(stream, encoding="bytes").load()
        data = batch[b"data"].values
        labels = np.asarray(batch[b"labels"], np.int32)
        if data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1]:
            raise ValueError(f"shapes {data.shape}, {labels.shape}")
    # A damaged pickle can fail in any way: every opcode is somebody's constructor.
    except Exception as error:
        raise CIFAR10.error(
            f"cannot read '{path}' ({type(error).__name__}: {error})"
        ) from error
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def read_folder(folder: Path, *, num_train: int, num_test: int) -> Dataset:
    """Reads the six batch files in `folder`; the counts are those expected."""
    batches = [read_batch(folder / name) for name in _TRAIN_FILES]
    test_images, test_labels = read_batch(folder / _TEST_FILE)
    return verified(
        Dataset(
            CIFAR10.name,
            np.concatenate([images for images, _ in batches]),
            np.concatenate([labels for _, labels in batches]),
            test_images,
            test_labels,
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
    root = data_folder(data_dir, CIFAR10)
    first = first_existing(
        [root / "cifar-10-batches-py" / _TRAIN_FILES[0], root / _TRAIN_FILES[0]],
        CIFAR10,
    )
    return read_folder(first.parent, num_train=50_000, num_test=10_000)
