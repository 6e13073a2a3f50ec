"""Small federations for the tests of the defences."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.defenses.base import Cohort, FederationSpec, RoundContext
from fedjax_sim.flat import flat_layout


@pytest.fixture(autouse=True)
def explicit_ranks() -> Iterator[None]:
    """Makes an implicit broadcast between ranks an error."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def make_cohort() -> Callable[..., Cohort]:
    """Returns a function from rows (and ids, weights, buffers) to a cohort."""

    def make(updates, ids=None, weights=None, buffers=None) -> Cohort:
        updates = jnp.asarray(updates, jnp.float32)
        n = len(updates)
        return Cohort(
            updates=updates,
            buffers=jnp.asarray(np.zeros((n, 0)) if buffers is None else buffers, "f4"),
            weights=jnp.asarray(np.ones(n) if weights is None else weights, "f4"),
            client_ids=jnp.asarray(np.arange(n) if ids is None else ids, "i4"),
            num_examples=jnp.full(n, 100, jnp.int32),
            scores={},
        )

    return make


@pytest.fixture(scope="session")
def make_context() -> Callable[..., RoundContext]:
    """Returns a function from d and b to the context of a round."""

    def make(num_params: int, num_buffers: int = 0, round_: int = 1) -> RoundContext:
        return RoundContext(
            round=jnp.int32(round_),
            key=jax.random.key(round_),
            global_params=jnp.linspace(-1.0, 1.0, num_params),
            global_buffers=jnp.linspace(0.0, 2.0, num_buffers),
        )

    return make


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., FederationSpec]:
    """Returns a function from n (and N, M, d, b) to a federation."""

    def make(
        n: int,
        population: int = 40,
        num_malicious: int = 4,
        num_params: int = 7,
        num_buffers: int = 0,
    ) -> FederationSpec:
        layout = flat_layout({"w": jnp.zeros(num_params)})
        return FederationSpec(population, n, num_malicious, layout, num_buffers)

    return make
