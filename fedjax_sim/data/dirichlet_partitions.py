"""Dirichlet splits of other frameworks, redrawn until every client has enough.

With their seed they give their partition. Both hand out one class after the other by
shares Dir(alpha, ...), and may leave out clients that have their average already.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.options import Count, Natural, Positive, Seed, checked
from fedjax_sim.data.packing import (
    check_sizes,
    clients_of,
    redrawn,
    samples_by_class,
)

_FLWR_REDRAWS = 10  # of the released code


def _sizes(clients: list[list[int]]) -> np.ndarray:
    return np.array([len(own) for own in clients])


def _normalized(shares: np.ndarray, total: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # 0 / 0: seen by `_hand_out`
        return shares / np.float64(total)


def _hand_out(
    classes: Iterable[np.ndarray],
    num_clients: int,
    shares_of: Callable[[np.ndarray], np.ndarray],
) -> list[list[int]]:
    """Cuts each class by shares that may depend on what the clients have already.

    Args:
      classes: sample numbers of each class.
      num_clients: N.
      shares_of: int [N] samples so far -> f64 [N] shares of the next class.
    """
    clients: list[list[int]] = [[] for _ in range(num_clients)]
    for samples in classes:
        shares = shares_of(_sizes(clients))
        if not np.isfinite(shares).all():  # alpha underflows: as good as no draw
            return [[] for _ in range(num_clients)]
        cuts = (np.cumsum(shares) * len(samples)).astype(int)[:-1]
        for own, part in zip(clients, np.split(samples, cuts), strict=True):
            own.extend(part.tolist())
    return clients


@checked("partition")
def flwr_dirichlet(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    alpha: Positive = 0.5,
    min_partition_size: Count = 10,
    self_balancing: bool = False,
    max_redraws: Natural = _FLWR_REDRAWS,
) -> Partition:
    """The split of flwr-datasets' `DirichletPartitioner` (0.6.1).

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      alpha: concentration; the smaller, the more clients differ.
      min_partition_size: samples of the smallest client.
      self_balancing: a client above the average takes nothing of further classes.
      max_redraws: until every client has that many.
    """
    check_sizes(num_clients, len(labels))
    rng = np.random.default_rng(seed)
    classes = samples_by_class(labels)
    average = len(labels) / num_clients

    def shares_of(sizes: np.ndarray) -> np.ndarray:
        shares = rng.dirichlet(np.full(num_clients, alpha))
        if not self_balancing:
            return shares
        shares[sizes > average] = 0
        return _normalized(shares, sum(shares.tolist()))  # in order, not as NumPy

    clients = redrawn(
        lambda: _hand_out(classes, num_clients, shares_of),
        _sizes,
        min_partition_size,
        max_redraws,
        "min_partition_size",
    )
    for own in clients:
        rng.shuffle(own)
    return clients_of(clients)


@checked("partition")
def fedlab_hetero_dir(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    alpha: Positive = 0.5,
    min_require_size: Count | None = None,
    max_redraws: Natural = 1_000,
) -> Partition:
    """The split of FedLab's `hetero_dir_partition` (1.3.0), after `np.random.seed`.

    A client that has the average already takes nothing of further classes.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      alpha: concentration; the smaller, the more clients differ.
      min_require_size: samples of the smallest client; None: as many as labels.
      max_redraws: until every client has that many; FedLab never gives up.
    """
    check_sizes(num_clients, len(labels))
    rng = np.random.RandomState(seed)
    in_order = samples_by_class(labels)
    average = len(labels) / num_clients

    def shuffled() -> Iterator[np.ndarray]:
        """Shuffles a class before its shares are drawn."""
        for samples in in_order:
            samples = samples.copy()
            rng.shuffle(samples)
            yield samples

    def shares_of(sizes: np.ndarray) -> np.ndarray:
        shares = rng.dirichlet(np.repeat(alpha, num_clients)) * (sizes < average)
        return _normalized(shares, shares.sum())

    clients = redrawn(
        lambda: _hand_out(shuffled(), num_clients, shares_of),
        _sizes,
        min_require_size or len(in_order),
        max_redraws,
        "min_require_size",
    )
    for own in clients:
        rng.shuffle(own)
    return clients_of(clients)
