"""Which training samples malicious clients poison.

By the rule of DROP's code (Syros et al. 2025); what its rate counts, and what the
paper's: docs/protocols/drop.md.

A sample belongs to at most one client, so one flag per training sample says it
all; the batch function stamps the trigger and replaces the label on the fly.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.partition import pack


def poison_plan(
    partition: Partition,
    labels: np.ndarray,
    malicious_ids: Sequence[int] | np.ndarray,
    *,
    dpr: float,
    victim_class: int | None,
) -> np.ndarray:
    """Returns bool [M]: the samples to poison.

    Each malicious client poisons the first floor(dpr * v) of its v samples of the
    victim class, in its own order (float64 product, truncated). Note that `dpr` is
    a fraction of the victim class within a client, not of the client's data: see
    `round.batches.poisoned_fractions`.

    Args:
      partition: the samples of each client.
      labels: int [M].
      malicious_ids: client ids.
      dpr: data poisoning rate in [0, 1].
      victim_class: None lets every sample be poisoned, also those that already
        have the target label.
    """
    ids = _checked_ids(partition, malicious_ids)
    samples, counts = partition.indices[ids], partition.counts[ids]
    eligible = np.arange(samples.shape[1]) < counts[:, None]
    if victim_class is not None:
        eligible &= labels[samples] == victim_class
    limits = np.floor(np.float64(dpr) * eligible.sum(axis=1))
    chosen = eligible & (np.cumsum(eligible, axis=1) <= limits[:, None])
    poisoned = np.zeros(len(labels), bool)
    poisoned[samples[chosen]] = True
    return poisoned


def redistribute_poison(
    partition: Partition,
    poisoned: np.ndarray,
    malicious_ids: Sequence[int] | np.ndarray,
    *,
    seed: int,
) -> Partition:
    """Gives malicious clients equal parts of all their poisoned samples.

    DROP's code, `non_iid_equal_distribution`: the poisoned samples of all
    malicious clients are shuffled, cut into chunks of ceil(total / number of
    malicious clients) and put before each client's clean samples.
    """
    ids = _checked_ids(partition, malicious_ids)
    rows = [
        row[:count]
        for row, count in zip(partition.indices, partition.counts, strict=True)
    ]
    pool = np.concatenate(
        [rows[client][poisoned[rows[client]]] for client in ids]
        or [np.zeros(0, np.int32)]
    )
    pool = np.random.default_rng(seed).permutation(pool)
    size = -(-len(pool) // max(len(ids), 1))
    num_chunks = -(-len(pool) // size) if size else 0
    if num_chunks != len(ids):
        raise InputError(
            f"{len(pool)} poisoned samples make {num_chunks} chunks of {size} for "
            f"{len(ids)} malicious clients; use another dpr, or leave the poisoned "
            "samples where they are"
        )
    for position, client in enumerate(ids):
        clean = rows[client][~poisoned[rows[client]]]
        chunk = pool[position * size : (position + 1) * size]
        rows[client] = np.concatenate([chunk, clean])
    counts = [len(row) for row in rows]
    return pack(
        np.concatenate(rows),
        np.repeat(np.arange(len(counts)), counts),
        len(counts),
    )


def _checked_ids(
    partition: Partition, malicious_ids: Sequence[int] | np.ndarray
) -> np.ndarray:
    ids = np.asarray(malicious_ids, np.int64)
    num_clients = len(partition.counts)
    if len(ids) and (ids.min() < 0 or ids.max() >= num_clients):
        raise InputError(f"malicious client ids outside 0..{num_clients - 1}")
    if len(np.unique(ids)) != len(ids):
        raise InputError("a malicious client id occurs twice")
    return ids
