"""Partitions as files, so that several runs and several frameworks share one.

What a run writes and every run reads, a NumPy archive (.npz):

    indices        int32 [sum of counts], the samples of all clients, one client after
                   the other, each in the client's own order
    counts         int32 [N]
    labels_sha256  of all training labels as little-endian int32: the samples are
                   numbered as they are in that data set (may be missing)

Also read: .npz with an array for each client, named by its number from 0; JSON, a list
of the clients' lists of sample numbers, or an object of them by the client's number.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import INT32_MAX, InputError
from fedjax_sim.core.options import Count, Seed, checked
from fedjax_sim.data.files import look
from fedjax_sim.data.packing import (
    check,
    check_no_empty,
    clients_of,
    flatten,
    is_used,
)


def labels_digest(labels: np.ndarray) -> str:
    """Returns 64 hex digits of the training labels in their order."""
    return hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()


def write_partition(path: Path, partition: Partition, labels: np.ndarray) -> None:
    """Writes the file above; a kill leaves the old file or the new one, never half."""
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(
        temporary,
        indices=flatten(partition).astype(np.int32),
        counts=partition.counts.astype(np.int32),
        labels_sha256=np.array(labels_digest(labels)),
    )
    os.replace(temporary, path)


def read_partition(path: Path) -> tuple[Partition, str | None]:
    """Returns the partition of a file, and the digest of its labels if it says so.

    Raises:
      InputError: it cannot be read, or is no such file; one line names it.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"PK"):
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            return _of_arrays(arrays)
        return _of_json(json.loads(content)), None
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"config.partition.path = '{path}': {reason}") from error
    except Exception as error:  # zip, NumPy and JSON fail in many ways
        seems = look(path)
        raise InputError(
            f"config.partition.path = '{path}' looks like {seems}, and is no partition "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            "allowed: .npz of indices and counts, or of an array for each client named "
            "0, 1, ...; JSON of a list of sample numbers for each client"
        ) from error


def _of_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[Partition, str | None]:
    digest = str(arrays["labels_sha256"]) if "labels_sha256" in arrays else None
    if "indices" not in arrays and "counts" not in arrays:
        return clients_of(_in_order(arrays)), digest
    indices, counts = (_whole(arrays[key]) for key in ("indices", "counts"))
    if indices.ndim == 2:  # padded
        return Partition(indices, counts), digest
    if counts.ndim != 1 or counts.min(initial=0) < 0 or counts.sum() != len(indices):
        raise ValueError(f"{len(indices)} indices, but counts add up to {counts.sum()}")
    return clients_of(np.split(indices, np.cumsum(counts)[:-1])), digest


def _of_json(value: Any) -> Partition:
    if isinstance(value, dict):
        return clients_of(_in_order(value))
    return clients_of([_whole(np.array(own)) for own in list(value)])


def _in_order(clients: Mapping[str, Any]) -> list[np.ndarray]:
    """The clients' samples by their numbers 0..N-1."""
    expected = [str(k) for k in range(len(clients))]
    if sorted(clients) != sorted(expected):
        raise ValueError(f"clients are named {', '.join(list(clients)[:3])}, not 0, 1")
    return [_whole(np.asarray(clients[name])) for name in expected]


def _whole(values: np.ndarray) -> np.ndarray:
    if values.size == 0:
        return values.astype(np.int64)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"sample numbers of type {values.dtype}")
    if not -1 <= values.min() <= values.max() <= INT32_MAX:
        raise ValueError(f"sample numbers from {values.min()} to {values.max()}")
    return values.astype(np.int64)


@checked("partition")
def partition_from_file(
    labels: np.ndarray, *, num_clients: Count, seed: Seed, path: str
) -> Partition:
    """The partition that a file holds, such as partition.npz of another run.

    Args:
      labels, num_clients, seed: int [M], N, and a seed that is not used.
      path: .npz or JSON, see `data.partition_files`.
    """
    del seed
    place = Path(path)
    try:
        place = place.expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"config.partition.path = '{path}': {error}") from error
    found, digest = read_partition(place)
    if len(found.counts) != num_clients:
        raise InputError(
            f"'{path}' holds {len(found.counts)} clients, but "
            f"config.partition.num_clients = {num_clients}"
        )
    if digest not in (None, labels_digest(labels)):
        raise InputError(
            f"'{path}' is of other training samples, or of these in another order: "
            f"labels_sha256 is {str(digest)[:16]}..., here "
            f"{labels_digest(labels)[:16]}...; take the same data set and "
            "data.num_train"
        )
    check(found, len(labels))
    check_no_empty(found.counts, "a client needs at least one sample")
    indices = np.where(is_used(found), found.indices, 0)  # whatever the padding was
    return Partition(indices.astype(np.int32), found.counts.astype(np.int32))
