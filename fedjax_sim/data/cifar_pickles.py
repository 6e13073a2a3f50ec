"""The pickles of CIFAR's "python version", read without running what they name."""

import io
import pickle
from typing import Any

import numpy as np

from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import look


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


def read_pickle(
    path: Place, labels_key: bytes, origin: Origin
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]) of one batch file.

    Raises:
      InputError: it is damaged, no such pickle, or names what it should not.
    """
    try:
        content = path.read_bytes()
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        data = batch[b"data"].values
        labels = np.asarray(batch[labels_key], np.int32)
        if data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1]:
            raise ValueError(f"shapes {data.shape}, {labels.shape}")
    # A damaged pickle can fail in any way: every opcode is somebody's constructor.
    except Exception as error:
        seems = f"it looks like {look(path)}, " if path.is_file() else ""
        raise origin.error(
            f"cannot read '{path}' ({seems}{type(error).__name__}: {error})"
        ) from error
    return images_of(data), labels


def read_binary(
    path: Place, num_labels: int, which: int, origin: Origin
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]) of a file of the "binary version".

    Args:
      path: records of `num_labels` bytes and 3072 pixels, channel by channel.
      num_labels: labels of a record.
      which: of them is asked for, from 0.
      origin: for error messages.

    Raises:
      InputError: it cannot be read, or is no number of whole records.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise origin.error(f"cannot read '{path}' ({error})") from error
    size = num_labels + 3072
    if not content or len(content) % size:
        raise origin.error(
            f"'{path}' has {len(content)} bytes, no number of records of {size}; it "
            f"looks like {look(content)}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return images_of(records[:, num_labels:]), records[:, which].astype(np.int32)


def images_of(rows: np.ndarray) -> np.ndarray:
    """Returns uint8 [B, 32, 32, 3] of rows [B, 3072], channel by channel."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
