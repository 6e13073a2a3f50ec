"""A federation of random updates, in which a server rule is tried alone.

Letters: `n` cohort, `N` population, `d` = 23 parameters, `b` buffer entries.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.contracts.defense import Aggregate, Cohort, Defense, Root, RoundContext
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.numerics.flat import flat_layout
from fedjax_sim.testing.quick_jit import quick_jit

PyTree = Any
# (state, cohort, context) -> (state, judged cohort, aggregate, global model)
Step = Callable[
    [PyTree, Cohort, RoundContext], tuple[PyTree, Cohort, Aggregate, GlobalModel]
]


class Trial(NamedTuple):
    """A server rule and a federation to try it in.

    Attributes:
      name: of the rule, for messages.
      defense: the rule.
      n: clients of a round.
      population: N; where it is n, everybody takes part.
      buffers: b, running statistics of the model.
      step: a whole server round.
      jitted: the same, compiled.
    """

    name: str
    defense: Defense
    n: int
    population: int
    buffers: int
    step: Step
    jitted: Step

    def start(
        self, n: int | None = None, buffers: int | None = None, seed: int = 0
    ) -> tuple[PyTree, Cohort, RoundContext]:
        """Returns an initial state, a random cohort and a context.

        Args:
          n: clients of the round, in place of the trial's.
          buffers: b, in place of the trial's.
          seed: of the cohort.

        Raises:
          InputError: the rule refuses such a federation.
        """
        n = self.n if n is None else n
        b = self.buffers if buffers is None else buffers
        population = n if self.population == self.n else self.population
        rng = np.random.default_rng(seed)
        network = make_network(b)
        d = network.layout.size
        cohort = make_cohort(
            rng.normal(size=(n, d)) + rng.normal(size=d),
            ids=rng.permutation(population)[:n],
            buffers=rng.uniform(size=(n, b)),
        )
        spec = make_spec(n, population, num_buffers=b, network=network)
        context = make_context(d, b)._replace(malicious=cohort.client_ids % 4 == 1)
        return self.defense.init(spec), cohort, context


def make_trial(
    name: str, defense: Defense, *, n: int = 9, population: int = 40, buffers: int = 5
) -> Trial:
    """Returns a trial of a rule; see `Trial`."""

    def step(state, cohort, context):
        # Their functions are static: no arguments of a jitted function.
        network = make_network(context.global_buffers.shape[-1])
        context = context._replace(root=make_root(), network=network)
        state, cohort, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(context.global_params + result.update, result.buffers)
        state, model = defense.after(state, model, cohort, context)
        return state, cohort, result, model

    return Trial(name, defense, n, population, buffers, step, quick_jit(step))


def make_cohort(updates, ids=None, weights=None, buffers=None) -> Cohort:
    """Returns a cohort of updates [n, d]; all of weight 1 and without buffers."""
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


def make_context(
    num_params: int, num_buffers: int = 0, round_: int = 1
) -> RoundContext:
    """Returns what a server knows in a round, but for the network and its samples."""
    return RoundContext(
        round=jnp.int32(round_),
        key=jax.random.key(round_),
        global_params=jnp.linspace(-1.0, 1.0, num_params),
        global_buffers=jnp.linspace(0.0, 2.0, num_buffers),
        network=None,  # type: ignore[arg-type] # the rules that need one are given it
        malicious=None,  # type: ignore[arg-type]
        local_lr=jnp.float32(0.01),
        local_steps=jnp.float32(1.0),
    )


def make_spec(
    n: int,
    population: int = 40,
    num_malicious: int = 4,
    num_params: int = 7,
    num_buffers: int = 0,
    network: Network | None = None,
) -> FederationSpec:
    """Returns the facts of a federation, of a network or of so many parameters."""
    return FederationSpec(
        population,
        n,
        num_malicious,
        network.layout if network else flat_layout({"w": jnp.zeros(num_params)}),
        num_buffers,
        network,  # type: ignore[arg-type]
        jax.random.key(0),
    )


@cache
def make_network(num_buffers: int = 0) -> Network:
    """Returns a network of 23 parameters for 2x2 images of two classes."""
    shape, classes = (2, 2, 1), 2
    with jax.numpy_rank_promotion("allow"), jax.ensure_compile_time_eval():
        model = models.build("mlp", num_classes=classes, image_shape=shape, width=3)
        params, _ = model.init(jax.random.key(0))
    model = model._replace(
        apply=_with_implicit_ranks(model.apply),
        features=_with_implicit_ranks(model.features),
    )
    buffers = flat_layout({"statistics": jnp.zeros(num_buffers)})
    return Network(model, flat_layout(params), buffers, shape, classes)


def _with_implicit_ranks(function: Callable) -> Callable:
    """Lets the layers of flax broadcast as they do, where a caller forbids it."""

    def call(*arguments, **options):
        with jax.numpy_rank_promotion("allow"):
            return function(*arguments, **options)

    return call


@cache
def make_root() -> Root:
    """Returns a server with six images, whose training is one fixed step."""
    with jax.ensure_compile_time_eval():  # a cache must hold no tracers
        images = jax.random.normal(jax.random.key(5), (6, 2, 2, 1))
        labels = jnp.arange(6) % 2

    def train(model: GlobalModel, key) -> GlobalModel:
        del key
        step = 0.1 * jnp.cos(jnp.arange(len(model.params)))
        return GlobalModel(model.params + step, 0.9 * model.buffers)

    return Root(images, labels, train)


def surviving_ids(cohort: Cohort) -> set[int]:
    """The clients that still count."""
    return set(np.asarray(cohort.client_ids)[np.asarray(cohort.weights) > 0].tolist())


def take(cohort: Cohort, rows: np.ndarray) -> Cohort:
    """The clients of some rows, in their order."""
    return jax.tree.map(lambda x: x[rows], cohort)


def stack(trees: Sequence[Any]) -> Any:
    """Pytrees of equal shapes as one with another leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)
