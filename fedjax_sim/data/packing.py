"""What all partitions have in common: samples and their owners, checks, a fingerprint.

Letters: N clients, M training samples, K classes (labels that occur), max_m the
largest client.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import InputError

_MAX_REDRAWS = 1_000
T = TypeVar("T")


def pack(samples: np.ndarray, owners: np.ndarray, num_clients: int) -> Partition:
    """Returns the partition that gives sample samples[k] to client owners[k].

    Each client keeps the order in which its samples occur in `samples`.
    """
    order = np.argsort(owners, kind="stable")
    samples, owners = samples[order], owners[order]
    counts = np.bincount(owners, minlength=num_clients)
    starts = np.cumsum(counts) - counts
    indices = np.zeros((num_clients, int(counts.max(initial=0))), np.int32)
    indices[owners, np.arange(len(owners)) - starts[owners]] = samples
    return Partition(indices, counts.astype(np.int32))


def clients_of(clients: Sequence[Sequence[int] | np.ndarray]) -> Partition:
    """Returns the partition of a list of sample numbers for each client."""
    counts = np.array([len(own) for own in clients], np.int32)
    indices = np.zeros((len(clients), int(counts.max(initial=0))), np.int64)
    for row, own in zip(indices, clients, strict=True):
        row[: len(own)] = own
    return Partition(indices.astype(np.int32), counts)


def flatten(partition: Partition) -> np.ndarray:
    """Returns the samples of all clients, one client after the other, int32 [sum]."""
    return partition.indices[is_used(partition)]


def check(partition: Partition, num_samples: int) -> None:
    """Raises unless every sample exists and belongs to at most one client."""
    indices, counts = partition
    if indices.ndim != 2 or counts.shape != indices.shape[:1]:
        raise InputError(
            f"partition: indices {list(indices.shape)} and counts "
            f"{list(counts.shape)}, [N, max_m] and [N] expected"
        )
    if counts.min(initial=0) < 0 or counts.max(initial=0) > indices.shape[1]:
        raise InputError(f"partition: counts outside 0..{indices.shape[1]}")
    used = flatten(partition)
    if len(used) and (used.min() < 0 or used.max() >= num_samples):
        raise InputError(f"partition: sample numbers outside 0..{num_samples - 1}")
    owners = np.bincount(used, minlength=1)
    if owners.max() > 1:
        raise InputError(f"partition: sample {owners.argmax()} is used more than once")


def fingerprint(partition: Partition) -> str:
    """Returns 16 hex digits that tell partitions apart; padding does not matter."""
    digest = hashlib.sha256(partition.counts.astype("<i8").tobytes())
    digest.update(flatten(partition).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def classes_of_clients(partition: Partition, labels: np.ndarray) -> np.ndarray:
    """Returns int [N]: how many of the labels that occur each client has.

    Args:
      partition: of the samples.
      labels: int [M].
    """
    values, labels = np.unique(labels, return_inverse=True)
    owners = np.repeat(np.arange(len(partition.counts)), partition.counts)
    held = np.unique(owners * len(values) + labels[flatten(partition)])
    return np.bincount(held // len(values), minlength=len(partition.counts))


def with_fake_clients(partition: Partition, num_fake: int) -> Partition:
    """Appends `num_fake` clients without data.

    Cao, Gong, CVPR Workshops 2022 (MPAF); Xie, Fang, Gong, CVPR 2025 (PoisonedFL).
    """
    if num_fake < 0:
        raise InputError(f"num_fake={num_fake}, at least 0 expected")
    return Partition(
        np.pad(partition.indices, ((0, num_fake), (0, 0))),
        np.pad(partition.counts, (0, num_fake)),
    )


def is_used(partition: Partition) -> np.ndarray:
    """Returns bool [N, max_m], False for padding."""
    return np.arange(partition.indices.shape[1]) < partition.counts[:, None]


def check_sizes(num_clients: int, num_samples: int) -> None:
    """Refuses more clients than samples."""
    if num_samples < num_clients:
        raise InputError(
            f"num_clients={num_clients} is more than the {num_samples} training "
            "samples; lower it or use more data"
        )


def check_no_empty(sizes: np.ndarray, remedy: str) -> None:
    """A client without a sample has no update: refuse it here, where it arises.

    Args:
      sizes: int [N].
      remedy: what a user may change, for the message.
    """
    if sizes.min() == 0:
        empty = int((sizes == 0).sum())
        raise InputError(
            f"partition leaves {empty} of num_clients={len(sizes)} clients "
            f"(the first: {sizes.argmin()}) without a sample; {remedy}"
        )


def redrawn(
    draw: Callable[[], T],
    sizes: Callable[[T], np.ndarray],
    least: int | None,
    max_redraws: int | None,
    key: str = "min_samples",
) -> T:
    """Draws until every client has enough samples.

    Args:
      draw: gives another division each time.
      sizes: of its clients, int [N].
      least: samples of the smallest client; None: one draw, and no client empty.
      max_redraws: after the first draw; None: 1000, if `least` is given.
      key: what the option of `least` is called.

    Raises:
      InputError: no draw was good enough.
    """
    if least is None:
        if max_redraws is not None:
            raise InputError(f"max_redraws={max_redraws} belongs to {key}")
        drawn = draw()
        check_no_empty(sizes(drawn), "raise alpha or lower num_clients")
        return drawn
    tries = 1 + (_MAX_REDRAWS if max_redraws is None else max_redraws)
    best = 0
    for _ in range(tries):
        drawn = draw()
        found = sizes(drawn)
        if found.min() >= least:
            return drawn
        best = max(best, int(found.min()))
    raise InputError(
        f"none of {tries} draws gives each of num_clients={len(found)} clients "
        f"{key}={least} of the {found.sum()} samples, at best the smallest has {best}; "
        f"raise alpha or max_redraws, lower {key} or num_clients"
    )


def samples_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Returns the sample numbers of each class, in stored order."""
    _, labels = np.unique(labels, return_inverse=True)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])
