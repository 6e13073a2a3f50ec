"""Which of the genuine clients are malicious, fixed for a run."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array


def random_clients(population: int, num_malicious: int, key: Array) -> np.ndarray:
    """Returns M of N clients drawn uniformly, i64 [M] ascending, ids from 0."""
    draw = jax.random.permutation(key, population)
    return np.sort(np.asarray(draw[:num_malicious]))


def last_clients(population: int, num_malicious: int, key: Array) -> np.ndarray:
    """Returns the M clients of the largest ids, i64 [M]."""
    del key
    return np.arange(population - num_malicious, population)


def published_clients(
    population: int, num_malicious: int, key: Array | None = None
) -> np.ndarray:
    """Returns the malicious set of LeadFL's code, i64 [M] ascending, ids from 0."""
    del key
    drawn = np.random.RandomState(0).choice(population, num_malicious, replace=False)
    return np.sort(drawn)


# The values of `config.attack.malicious_clients`.
MALICIOUS_CLIENTS: dict[str, Callable[[int, int, Array], np.ndarray]] = {
    "random": random_clients,
    "last": last_clients,
    "leadfl": published_clients,
}
