"""Drawing clients without replacement; ids ascend, so that ties go by client id."""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.core.errors import InputError


def draw(key: Array, candidates: Array, count: int) -> tuple[Array, Array]:
    """Draws `count` of the clients in bool [N] uniformly without replacement."""
    scores = jax.random.uniform(key, candidates.shape)
    best, ids = jax.lax.top_k(jnp.where(candidates, scores, -1.0), count)
    return ids, best >= 0


def ascending(ids: Array, present: Array) -> tuple[Array, Array]:
    order = jnp.argsort(ids)
    return ids[order], present[order]


def draw_groups(key, malicious, eligible, num_malicious, num_benign):
    """Draws from each group without replacement."""
    benign_key, malicious_key = jax.random.split(key)
    benign = draw(benign_key, eligible & ~malicious, num_benign)
    attackers = draw(malicious_key, eligible & malicious, num_malicious)
    # The groups fill their empty places with ids that the other may have drawn.
    taken = jnp.zeros(eligible.shape, bool)
    for ids, present in (benign, attackers):
        taken = taken.at[ids].max(present)
    _, ids = jax.lax.top_k(taken.astype(jnp.float32), num_malicious + num_benign)
    return ascending(ids, taken[ids])


def check_cohort(cohort_size: int, population: int) -> None:
    if not 1 <= cohort_size <= population:
        raise InputError(
            f"config.participation.clients_per_round = {cohort_size} must lie between "
            f"1 and the population of {population} clients"
        )
