"""Clients as they are in the data: writers, users."""

import numpy as np

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Seed, checked
from fedjax_sim.data.packing import pack


@checked("partition")
def by_writer(
    labels: np.ndarray,
    *,
    num_clients: Count,
    seed: Seed,
    groups: np.ndarray | None = None,
    min_samples: Count = 1,
) -> Partition:
    """Each client is one writer of the data set, with all of that writer's samples.

    The writers are drawn without replacement; samples of the others are not used.

    Args:
      labels, num_clients, seed: int [M], N, and that of the draws.
      groups: int [M], who wrote each sample; None: the data set does not know.
      min_samples: writers with fewer are no clients.
    """
    if groups is None:
        raise InputError(
            "the data set does not say who wrote which sample; those that do: leaf, "
            "tff_hdf5, emnist from a .mat file, parquet with data.group_column"
        )
    del labels
    writers, owners, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    eligible = np.flatnonzero(sizes >= min_samples)
    if num_clients > len(eligible):
        raise InputError(
            f"num_clients={num_clients} is more than the {len(eligible)} writers with "
            f"at least min_samples={min_samples} training samples (of {len(writers)})"
        )
    chosen = np.random.default_rng(seed).permutation(eligible)[:num_clients]
    client = np.full(len(writers), -1)
    client[chosen] = np.arange(num_clients)
    owners = client[owners]
    samples = np.flatnonzero(owners >= 0)
    return pack(samples, owners[samples], num_clients)
