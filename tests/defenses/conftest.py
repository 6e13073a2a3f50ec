"""Small federations for the tests of the defences."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

from fedjax_sim.contracts.defense import Cohort, Defense, Root, RoundContext
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Network
from fedjax_sim.testing import defense_trial


@pytest.fixture(autouse=True)
def explicit_ranks() -> Iterator[None]:
    """Makes an implicit broadcast between ranks an error."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def make_cohort() -> Callable[..., Cohort]:
    """Returns a function from rows (and ids, weights, buffers) to a cohort."""
    return defense_trial.make_cohort


@pytest.fixture(scope="session")
def make_context() -> Callable[..., RoundContext]:
    """Returns a function from d and b to the context of a round."""
    return defense_trial.make_context


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., FederationSpec]:
    """Returns a function from n (and N, M, d, b or a network) to a federation."""
    return defense_trial.make_spec


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    """Returns a function from b to a network of 23 parameters for 2x2 images."""
    return defense_trial.make_network


@pytest.fixture(scope="session")
def root() -> Root:
    """A server with six images, whose training is one fixed step."""
    return defense_trial.make_root()


@pytest.fixture
def one_round(make_cohort, make_context, make_spec, make_network):
    """Returns a function to the judged cohort and the aggregate of a first round.

    `cohort` holds arguments of `make_cohort`, `context` fields of the context.
    """

    def run(defense: Defense, updates, *, num_malicious=0, context=None, **cohort):
        clients = make_cohort(updates, **cohort)
        (n, d), b = clients.updates.shape, clients.buffers.shape[1]
        spec = make_spec(n, 40, num_malicious, num_params=d, num_buffers=b)
        known = make_context(d, b)._replace(**(context or {}))
        _, judged, result = jax.jit(
            lambda state, clients: defense.aggregate(state, clients, known)
        )(defense.init(spec), clients)
        return judged, result

    return run


@pytest.fixture(scope="session")
def survivors() -> Callable[[Cohort], list[int]]:
    """Returns a function from a judged cohort to the ids that still count."""
    return lambda judged: sorted(
        np.asarray(judged.client_ids)[np.asarray(judged.weights) > 0].tolist()
    )
