"""How the training samples are divided over the clients.

Letters: N clients, M training samples, K classes (labels that occur), max_m the
largest client. A factory draws on the host from its own seed; what follows from
the draws is a separate function that is a pure function of them.
"""

from collections.abc import Callable

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.contracts.entry import Entry, Table
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Natural, Positive, Seed, checked
from fedjax_sim.data.dataset import first_samples
from fedjax_sim.data.dirichlet_partitions import fedlab_hetero_dir, flwr_dirichlet
from fedjax_sim.data.natural_partition import by_writer
from fedjax_sim.data.packing import check as check
from fedjax_sim.data.packing import (
    check_no_empty,
    check_sizes,
    is_used,
    pack,
    redrawn,
    samples_by_class,
)
from fedjax_sim.data.packing import fingerprint as fingerprint
from fedjax_sim.data.packing import flatten as flatten
from fedjax_sim.data.packing import with_fake_clients as with_fake_clients
from fedjax_sim.data.partition_files import partition_from_file

_SINKHORN_PASSES = 1_000
_MAX_UNDERFLOWS = 100


# ---------------------------------------------- DROP (Syros et al. 2025), its code


def round_robin_counts(class_sizes: np.ndarray, num_clients: int) -> np.ndarray:
    """Samples of each class that each client gets from DROP's IID split.

    One client after the other takes one sample of each class in turn, in the order
    of the labels and without the exhausted ones, until it has floor(M / N). With
    unequal classes the last clients thus never see the rare ones.

    Args:
      class_sizes: int [K].
      num_clients: N.

    Returns:
      int64 [N, K].
    """
    left = np.array(class_sizes, np.int64)
    size = int(left.sum()) // num_clients
    counts = np.zeros((num_clients, len(left)), np.int64)
    for client in range(num_clients):
        # Whole turns: the largest k with sum(min(left, k)) <= size.
        missing, open_classes, turns = size, np.sort(left), 0
        for position, available in enumerate(open_classes):
            step = min(int(available) - turns, missing // (len(left) - position))
            turns += step
            missing -= step * (len(left) - position)
            if turns < available:
                break
        taken = np.minimum(left, turns)
        # The unfinished turn serves the lowest labels.
        taken[np.flatnonzero(left > turns)[:missing]] += 1
        counts[client] = taken
        left -= taken
    return counts


def proportional_counts(class_sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Samples of each class that each client gets from DROP's Dirichlet split.

    Args:
      class_sizes: int [K].
      shares: f64 [K, N], rows sum to 1.

    Returns:
      int64 [N, K], floor(smallest class * share): truncation and the size of the
      larger classes above the smallest one are lost.
    """
    return np.floor(np.min(class_sizes) * shares).astype(np.int64).T


def _deal(
    labels: np.ndarray,
    counts: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> Partition:
    """Deals shuffled classes by `counts(class sizes) -> [N, K]`; shuffles clients."""
    class_lists = [rng.permutation(samples) for samples in samples_by_class(labels)]
    shares = counts(np.array([len(samples) for samples in class_lists]))
    num_clients = len(shares)
    owners = [np.repeat(np.arange(num_clients), column) for column in shares.T]
    samples = np.concatenate(
        [
            samples[: len(owner)]
            for samples, owner in zip(class_lists, owners, strict=True)
        ]
    )
    order = rng.permutation(len(samples))
    return pack(samples[order], np.concatenate(owners)[order], num_clients)


def _of_available(
    labels: np.ndarray, ratio: float, divide: Callable[[np.ndarray], Partition]
) -> Partition:
    """Divides floor(ratio * M) of the samples, ADR in DROP's code."""
    count = int(np.floor(np.float64(ratio) * len(labels)))
    chosen = first_samples(labels, count)
    partition = divide(labels[chosen])
    indices = np.where(is_used(partition), chosen[partition.indices], 0)
    return partition._replace(indices=indices.astype(np.int32))


@checked("partition")
def drop_iid(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    available_data_ratio: Fraction = 1.0,
) -> Partition:
    """IID split of DROP's code: equal clients, filled class by class in turns.

    Exactly balanced if floor(M / N) is a multiple of K and classes are balanced. With
    unequal classes the last clients have none of the rare ones (`round_robin_counts`):
    a run says so when it starts; `random_equal` divides at random.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      available_data_ratio: share of the samples that are divided, the first ones (of
        each class, where they are ordered by class).
    """

    def divide(labels: np.ndarray) -> Partition:
        check_sizes(num_clients, len(labels))
        return _deal(
            labels,
            lambda sizes: round_robin_counts(sizes, num_clients),
            np.random.default_rng(seed),
        )

    return _of_available(labels, available_data_ratio, divide)


@checked("partition")
def drop_dirichlet(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    alpha: Positive = 1.0,
    available_data_ratio: Fraction = 1.0,
    min_samples: Count | None = None,
    max_redraws: Natural | None = None,
) -> Partition:
    """Dirichlet split of DROP's code: each class is shared out by Dir(alpha, ...).

    Clients differ in size; some may have no sample of a given class.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      alpha: concentration; the smaller, the more clients differ.
      available_data_ratio: share of the samples that are divided, the first ones (of
        each class, where they are ordered by class).
      min_samples: of every client, redrawn until it is so; None: drawn once, and an
        empty client is refused.
      max_redraws: with `min_samples`; None: 1000.
    """

    def divide(labels: np.ndarray) -> Partition:
        check_sizes(num_clients, len(labels))
        rng = np.random.default_rng(seed)
        sizes = np.array([len(own) for own in samples_by_class(labels)])
        counts = redrawn(
            lambda: proportional_counts(
                sizes, rng.dirichlet(np.full(num_clients, alpha), len(sizes))
            ),
            lambda counts: counts.sum(1),
            min_samples,
            max_redraws,
        )
        return _deal(labels, lambda sizes: counts, rng)

    return _of_available(labels, available_data_ratio, divide)


# ------------------------- FedREDefense (Xie, Fang, Gong, ICML 2024), its code


def sinkhorn(shares: np.ndarray) -> np.ndarray:
    """Makes `shares` f64 [K, N] nearly doubly stochastic.

    Divides columns, then rows, by their sums, 1000 times. Rows then sum to 1 and
    columns to about K / N: clients of almost equal size with very unequal labels.
    """
    for _ in range(_SINKHORN_PASSES):
        before = shares
        shares = shares / shares.sum(axis=0, keepdims=True)
        shares = shares / shares.sum(axis=1, keepdims=True)
        if np.array_equal(shares, before):
            break  # A fixed point: every further pass gives the same bits.
    return shares


def slice_by_shares(labels: np.ndarray, shares: np.ndarray) -> Partition:
    """Cuts every class, in stored order, at floor(cumulated share * class size).

    Args:
      labels: int [M].
      shares: f64 [K, N], rows sum to 1; row c serves the c-th label that occurs.

    Returns:
      A partition of all samples; clients hold their classes one after the other.
    """
    num_clients = shares.shape[1]
    owners = []
    class_lists = samples_by_class(labels)
    for samples, row in zip(class_lists, shares, strict=True):
        cuts = (np.cumsum(row)[:-1] * len(samples)).astype(np.int64)
        edges = np.concatenate([[0], np.minimum(cuts, len(samples)), [len(samples)]])
        owners.append(np.repeat(np.arange(num_clients), np.diff(edges)))
    return pack(np.concatenate(class_lists), np.concatenate(owners), num_clients)


@checked("partition")
def sinkhorn_dirichlet(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    alpha: Positive = 0.1,
    balance: bool = True,
    min_samples: Count | None = None,
    max_redraws: Natural | None = None,
) -> Partition:
    """Dirichlet split of FedREDefense's code; section 5.1.1 says only "Dirichlet".

    Draws come from NumPy's legacy generator, so that the same seed gives the authors'
    split.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      alpha: concentration; the smaller, the more clients differ.
      balance: make clients almost equal in size, see `sinkhorn`.
      min_samples: of every client, redrawn until it is so; None: drawn once, and an
        empty client is refused.
      max_redraws: with `min_samples`; None: 1000.
    """
    check_sizes(num_clients, len(labels))
    rng = np.random.RandomState(seed)

    def draw() -> Partition:
        for _ in range(_MAX_UNDERFLOWS):
            shares = rng.dirichlet([alpha] * num_clients, len(np.unique(labels)))
            # A small alpha can underflow a whole row (NaN) or column (0 / 0).
            if balance and (shares.sum(axis=0) > 0).all():
                shares = sinkhorn(shares)
            elif balance:
                continue
            if np.isfinite(shares).all():
                return slice_by_shares(labels, shares)
        raise InputError(
            f"alpha={alpha} underflows with num_clients={num_clients}; "
            "raise alpha or lower num_clients"
        )

    return redrawn(draw, lambda drawn: drawn.counts, min_samples, max_redraws)


# ----------------------------------------------------------------- general splits


@checked("partition")
def random_equal(labels: np.ndarray, *, num_clients: Count, seed: Seed) -> Partition:
    """floor(M / N) random samples for every client; the rest is left over."""
    check_sizes(num_clients, len(labels))
    size = len(labels) // num_clients
    order = np.random.default_rng(seed).permutation(len(labels))
    return Partition(
        order[: num_clients * size].reshape(num_clients, size).astype(np.int32),
        np.full(num_clients, size, np.int32),
    )


def _balanced_labels(
    num_clients: int, num_classes: int, per_client: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns int [N, per_client], distinct in a row, all labels about as often."""
    holders = np.zeros(num_classes)
    held = np.empty((num_clients, per_client), np.int64)
    for client, ties in enumerate(rng.random((num_clients, num_classes))):
        # The labels with the fewest holders so far, in a random order among equals.
        held[client] = np.argsort(holders + ties)[:per_client]
        holders[held[client]] += 1
    return held


@checked("partition")
def labels_per_client(
    labels: np.ndarray, *, num_clients: Count, seed: Seed, num_labels: Count = 5
) -> Partition:
    """Every client holds `num_labels` labels (LeadFL's code: 5 per client).

    Labels are held by equally many clients (up to one), and each is shared out
    equally (up to one sample) among its holders.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      num_labels: labels of a client, at most as many as there are.
    """
    check_sizes(num_clients, len(labels))
    class_lists = samples_by_class(labels)
    if num_labels > len(class_lists):
        raise InputError(
            f"num_labels={num_labels}, 1..{len(class_lists)} (the labels of the "
            "training samples) expected"
        )
    rng = np.random.default_rng(seed)
    held = _balanced_labels(num_clients, len(class_lists), num_labels, rng)
    samples, owners = [], []
    for label, members in enumerate(class_lists):
        holders = np.flatnonzero((held == label).any(axis=1))
        if len(holders) > len(members):
            raise InputError(
                f"num_clients={num_clients}, num_labels={num_labels}: {len(holders)} "
                f"clients would share the {len(members)} samples of label "
                f"{labels[members[0]]}; lower either"
            )
        if len(holders):
            samples.append(rng.permutation(members))
            owners.append(holders[np.arange(len(members)) % len(holders)])
    order = rng.permutation(sum(map(len, samples)))
    return pack(
        np.concatenate(samples)[order], np.concatenate(owners)[order], num_clients
    )


@checked("partition")
def shards(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    shards_per_client: Count = 2,
) -> Partition:
    """Sorted by label, cut into equal shards, some for each client (McMahan 2017).

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      shards_per_client: the fewer, the fewer labels a client has.
    """
    check_sizes(num_clients, len(labels))
    num_shards = num_clients * shards_per_client
    size = len(labels) // num_shards
    if size == 0:
        raise InputError(
            f"num_clients={num_clients} x shards_per_client={shards_per_client} is "
            f"more than the {len(labels)} training samples; lower either"
        )
    by_label = np.argsort(labels, kind="stable")[: num_shards * size]
    dealt = np.random.default_rng(seed).permutation(by_label.reshape(num_shards, size))
    counts = np.full(num_clients, shards_per_client * size, np.int32)
    return Partition(dealt.reshape(num_clients, -1).astype(np.int32), counts)


@checked("partition")
def label_groups(
    labels: np.ndarray, *, num_clients: Count, seed: Seed, degree: Fraction = 0.5
) -> Partition:
    """Clients in as many groups as labels, each group rich in its own label.

    Fang, Cao, Jia, Gong, USENIX Security 2020, section 4.1; also FLTrust and PoisonedFL
    ("degree of non-IID"). A sample of label l goes to group l with probability
    `degree`, else to one of the other groups; inside a group to a random client. Client
    i belongs to group i mod K.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      degree: probability that a sample goes to the group of its label; 1 / K is IID.
    """
    check_sizes(num_clients, len(labels))
    values, labels = np.unique(labels, return_inverse=True)
    count = len(values)
    if not 1 < count <= num_clients:
        raise InputError(
            f"num_clients={num_clients}, at least {max(count, 2)} (one a label; two "
            "labels or more)"
        )
    rng = np.random.default_rng(seed)
    stays = rng.random(len(labels)) < degree
    other = (labels + rng.integers(1, count, len(labels))) % count
    group = np.where(stays, labels, other)
    sizes = np.bincount(np.arange(num_clients) % count, minlength=count)
    member = np.floor(rng.random(len(labels)) * sizes[group]).astype(int)
    order = rng.permutation(len(labels))
    partition = pack(order, (group + member * count)[order], num_clients)
    check_no_empty(partition.counts, "use fewer clients or more data")
    return partition


# Every factory is f(labels int [M], *, num_clients, seed, <options>) -> Partition.
PARTITIONS = Table(
    "partition",
    "partitions",
    {
        "by_writer": Entry(by_writer, "Caldas et al. 2018 (LEAF)"),
        "drop_dirichlet": Entry(
            drop_dirichlet, "released code of Syros et al. 2025 (DROP)"
        ),
        "drop_iid": Entry(
            drop_iid, "released code of Syros et al. 2025 (DROP)", alike=True
        ),
        "fedlab_hetero_dir": Entry(fedlab_hetero_dir, "FedLab (Zeng et al. 2023)"),
        "file": Entry(partition_from_file, "-"),
        "flwr_dirichlet": Entry(flwr_dirichlet, "flwr-datasets (Beutel et al. 2020)"),
        "label_groups": Entry(label_groups, "Fang et al., USENIX Security 2020"),
        "labels_per_client": Entry(labels_per_client, "Zhu, Roos, Chen, ICML 2023"),
        "random_equal": Entry(random_equal, "-"),
        "shards": Entry(shards, "McMahan et al., AISTATS 2017"),
        "sinkhorn_dirichlet": Entry(
            sinkhorn_dirichlet, "released code of Xie, Fang, Gong, ICML 2024"
        ),
    },
)
