"""Small federations for the tests of the defences."""

from collections.abc import Callable, Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim import models
from fedjax_sim.contracts.defense import Cohort, Defense, Root, RoundContext
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.numerics.flat import flat_layout


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
            network=None,  # the rules that need one are given it
            malicious=None,
        )

    return make


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., FederationSpec]:
    """Returns a function from n (and N, M, d, b or a network) to a federation."""

    def make(
        n: int,
        population: int = 40,
        num_malicious: int = 4,
        num_params: int = 7,
        num_buffers: int = 0,
        network: Network | None = None,
    ) -> FederationSpec:
        layout = (
            network.layout if network else flat_layout({"w": jnp.zeros(num_params)})
        )
        return FederationSpec(
            population,
            n,
            num_malicious,
            layout,
            num_buffers,
            network,
            jax.random.key(0),
        )

    return make


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Network]:
    """Returns a function from b to a network of 23 parameters for 2x2 images."""

    def make(num_buffers: int = 0) -> Network:
        shape, classes = (2, 2, 1), 2
        with jax.numpy_rank_promotion("allow"):
            model = models.build("mlp", num_classes=classes, image_shape=shape, width=3)
            params, _ = model.init(jax.random.key(0))
        model = model._replace(
            apply=_with_implicit_ranks(model.apply),
            features=_with_implicit_ranks(model.features),
        )
        buffers = flat_layout({"statistics": jnp.zeros(num_buffers)})
        return Network(model, flat_layout(params), buffers, shape, classes)

    return cache(make)


def _with_implicit_ranks(function: Callable) -> Callable:
    """Lets the layers of flax broadcast as they do."""

    def call(*arguments, **options):
        with jax.numpy_rank_promotion("allow"):
            return function(*arguments, **options)

    return call


@pytest.fixture(scope="session")
def root() -> Root:
    """A server with six images, whose training is one fixed step."""
    images = jax.random.normal(jax.random.key(5), (6, 2, 2, 1))

    def train(model: GlobalModel, key) -> GlobalModel:
        del key
        step = 0.1 * jnp.cos(jnp.arange(len(model.params)))
        return GlobalModel(model.params + step, 0.9 * model.buffers)

    return Root(images, jnp.arange(6) % 2, train)


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
