"""What a defence is: stages on a cohort, a reduction, and a step afterwards.

As optax composes gradient transformations, a defence composes stages:

    def droplet(*, penalty=1.0, reward=0.5):
        return pipeline(ward_clusters(), activity_monitor(penalty, reward))

Letters used in shapes: `n` clients of a round (the cohort), `N` clients of the
population, `d` trainable parameters, `b` buffer entries (BatchNorm statistics).

The contract of every stage and reduction, checked for each registered defence by
`tests/defenses/test_contract.py`:

* a client of weight 0 has no influence on anything;
* the order of the clients does not matter, exact ties go to the smaller client id;
* a NaN or Inf update never reaches the global model: `pipeline` gives such a client
  weight 0 before the first stage and reports it;
* a round without survivors keeps the global model and says so in the report;
* the functions are pure and can be jitted, scanned over rounds and vmapped over
  seeds; their state is a pytree of arrays whose shapes never change.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.data.normalize import Normalization
from fedjax_sim.models import Network
from fedjax_sim.numerics.flat import FlatLayout

PyTree = Any


class FederationSpec(NamedTuple):
    """The static facts of a federation that factories may size their state by."""

    population: int  # N, fake clients included
    cohort_size: int  # n
    num_malicious: int  # M, the malicious clients of the population (threat model)
    layout: FlatLayout  # trainable parameters; layout.size is d
    num_buffers: int  # b
    network: Network | None = None  # what the parameters are parameters of
    key: Array | None = None  # PRNG key of this defence in this run

    @property
    def expected_malicious(self) -> int:
        """Malicious clients to expect in a cohort, rounded up: ceil(n M / N)."""
        return -(-self.cohort_size * self.num_malicious // self.population)


class Cohort(NamedTuple):
    """What the clients of one round sent, and what the stages made of it."""

    updates: Array  # f32 [n, d], local minus global parameters
    buffers: Array  # f32 [n, b], local running statistics (not differences)
    weights: Array  # f32 [n], 0 = excluded
    client_ids: Array  # i32 [n], ids in the population, distinct
    num_examples: Array  # i32 [n], local training samples
    scores: dict[str, Array]  # named per-client values for the report, each [n]


class GlobalModel(NamedTuple):
    """A global model in flat form."""

    params: Array  # f32 [d]
    buffers: Array  # f32 [b]


class RootRequest(NamedTuple):
    """The clean samples that a defence asks for, and how the server trains on them.

    Attributes:
      num_samples: how many training samples the server owns.
      balanced: as many of each class as possible; otherwise drawn uniformly.
      augmented: `Root.images` are augmented as training images are, once and for all.
      momentum, weight_decay: of the server's own training; None means the clients'.
    """

    num_samples: int
    balanced: bool = False
    augmented: bool = False
    momentum: float | None = None
    weight_decay: float | None = None


class Root(NamedTuple):
    """A server's own clean samples (m of them), and training on them.

    `train(model, key) -> model` trains as a client would: epochs, batch size,
    learning rate and augmentation of the run.
    """

    images: Array  # f32 [m, H, W, C], normalised
    labels: Array  # i32 [m]
    train: Callable[[GlobalModel, Array], GlobalModel]


class RoundContext(NamedTuple):
    """What a server knows in a round beside the cohort."""

    round: Array  # i32 [], from 1
    key: Array  # PRNG key of this defence in this round
    global_params: Array  # f32 [d], the model that was broadcast
    global_buffers: Array  # f32 [b]
    root: Root | None = None  # for defences with a `RootRequest`
    network: Network | None = None  # what the parameters are parameters of
    malicious: Array | None = None  # bool [n], who attacks: for oracles only


class Aggregate(NamedTuple):
    """The outcome of a reduction: one update and the new running statistics."""

    update: Array  # f32 [d]
    buffers: Array  # f32 [b]


class Stage(NamedTuple):
    """One step of a defence that filters, reweighs or changes clients.

    `init(spec) -> state` may raise `InputError` for an impossible federation;
    `apply(state, cohort, context) -> (state, cohort)` is pure.
    """

    init: Callable[[FederationSpec], PyTree]
    apply: Callable[[PyTree, Cohort, RoundContext], tuple[PyTree, Cohort]]


class After(NamedTuple):
    """A step on the new global model, such as noise or distillation.

    `apply(state, model, cohort, context) -> (state, model)` sees the surviving
    cohort, and through `context` the global model before the aggregation. It runs
    only in rounds with a survivor.
    """

    init: Callable[[FederationSpec], PyTree]
    apply: Callable[
        [PyTree, GlobalModel, Cohort, RoundContext], tuple[PyTree, GlobalModel]
    ]


Reduce = Callable[[Cohort, RoundContext], Aggregate]

# (learning rate, momentum, weight decay) -> the optimiser of benign clients; its update
# is also given `epoch_start` (bool [], first step of an epoch) and `key`.
ClientOptimizer = Callable[[Array, Array, Array], optax.GradientTransformationExtraArgs]

# (update f32 [d], key) -> f32 [d], what a benign client sends in place of its update.
ClientRelease = Callable[[Array, Array], Array]


class ClientTraining(NamedTuple):
    """Local training of benign clients with a memory of their own across rounds.

    Attributes:
      memory: `(state)` -> pytree with a leading axis N.
      remember: `(state, memory) -> state`, after the round.
      gradient: `(network, normalization)` -> a gradient function with memory; see
        `round.training.train_client`.
    """

    memory: Callable[[PyTree], PyTree]
    remember: Callable[[PyTree, PyTree], PyTree]
    gradient: Callable[[Network, Normalization], Callable[..., Any]]


class Groups(NamedTuple):
    """Clients divided into groups: `of(state) -> i32 [N]`, from 0 to `count` - 1.

    `models(state, global model)` gives the models of the groups, leading axis `count`.
    """

    count: int
    of: Callable[[PyTree], Array]
    models: Callable[[PyTree, GlobalModel], GlobalModel]


class Defense(NamedTuple):
    """A server rule, and what it may change besides the server step.

    The optional fields mean "as usual" when None.

    Attributes:
      init: `(spec) -> state`; may raise `InputError` for an impossible federation.
      aggregate: `(state, cohort, context) -> (state, judged cohort, aggregate)`.
      after: `(state, model, cohort, context) -> (state, model)`.
      root: clean samples that the server needs; they come as `RoundContext.root`.
      start: `(model, root, key) -> model`, before the first round.
      client_optimizer: of benign clients, in place of SGD.
      client_release: what benign clients make of their updates before they send them.
      client_training: of benign clients, where they remember something.
      eligible: `(state) -> bool [N]`, which clients may be sampled.
      broadcast: `(state, global model, client_id) -> model`, where clients do not all
        start from the global model.
      groups: the clients that share a model; an attacker of one group sees nothing
        of another.
      memory: `(spec) -> bytes` that its step needs besides the state and the updates.
      predict: `(state, model, network, images f32 [B, H, W, C]) -> i32 [B]` replaces
        the argmax of the global model at evaluation; -1 refuses an answer.
      settings: the rule's numbers, for an attacker who knows the rule.
    """

    init: Callable[[FederationSpec], PyTree]
    aggregate: Callable[
        [PyTree, Cohort, RoundContext], tuple[PyTree, Cohort, Aggregate]
    ]
    after: Callable[
        [PyTree, GlobalModel, Cohort, RoundContext], tuple[PyTree, GlobalModel]
    ]
    root: RootRequest | None = None
    start: Callable[[GlobalModel, Root, Array], GlobalModel] | None = None
    client_optimizer: ClientOptimizer | None = None
    client_release: ClientRelease | None = None
    client_training: ClientTraining | None = None
    eligible: Callable[[PyTree], Array] | None = None
    broadcast: Callable[[PyTree, GlobalModel, Array], GlobalModel] | None = None
    groups: Groups | None = None
    memory: Callable[[FederationSpec], int] | None = None
    predict: Callable[[PyTree, GlobalModel, Network, Array], Array] | None = None
    settings: Any = None


def included(cohort: Cohort) -> Array:
    """Returns bool [n]: the clients that still count."""
    return cohort.weights > 0


def exclude(cohort: Cohort, mask: Array) -> Cohort:
    """Gives weight 0 to the clients of `mask` (bool [n])."""
    return cohort._replace(weights=jnp.where(mask, 0.0, cohort.weights))


def with_score(cohort: Cohort, name: str, value: Array) -> Cohort:
    """Adds the per-client value `name` ([n]) to the report."""
    return cohort._replace(scores={**cohort.scores, name: value})


def exclude_non_finite(cohort: Cohort, context: RoundContext) -> Cohort:
    """Excludes clients whose update or buffers hold a NaN or Inf.

    Only clients that took part are reported as non-finite.
    Their rows are replaced by zeros (the global buffers), so that no later
    arithmetic such as 0 * NaN can bring them back. The rows are written in place: in
    the usual round, without such a client, the updates are read once and not copied.
    """
    finite = _finite_rows(cohort.updates) & _finite_rows(cohort.buffers)
    found = included(cohort) & ~finite
    found |= cohort.scores.get("non_finite", jnp.zeros_like(found))
    cohort = with_score(cohort, "non_finite", found)
    cohort = exclude(cohort, ~finite)
    bad_first = jnp.argsort(finite)
    updates = jax.lax.fori_loop(
        0,
        (~finite).sum(),
        lambda i, updates: updates.at[bad_first[i]].set(0.0),
        cohort.updates,
    )
    return cohort._replace(
        updates=updates,
        buffers=jnp.where(finite[:, None], cohort.buffers, context.global_buffers),
    )


def _finite_rows(rows: Array) -> Array:
    """Returns bool [n]: all entries of a row (f32 [n, k]) are finite.

    Zero times anything finite is zero: a matrix-vector product runs at the memory's
    speed, a reduction of `isfinite` at a tenth of it (XLA on CPU).
    """
    # The compiler must not see that these are zeros.
    zeros = jax.lax.optimization_barrier(jnp.zeros(rows.shape[1]))
    return jnp.matmul(rows, zeros, precision=jax.lax.Precision.HIGHEST) == 0


def weighted_mean() -> Reduce:
    """The mean of updates and buffers with the cohort's weights (FedAvg)."""

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        weights = cohort.weights / cohort.weights.sum()
        return Aggregate(weights @ cohort.updates, weights @ cohort.buffers)

    return reduce


def coordinatewise(rule: Callable[[Array, Array], Array]) -> Reduce:
    """Applies `rule(rows f32 [n, k], included bool [n]) -> f32 [k]` to each part."""

    def reduce(cohort: Cohort, context: RoundContext) -> Aggregate:
        del context
        mask = included(cohort)
        return Aggregate(rule(cohort.updates, mask), rule(cohort.buffers, mask))

    return reduce


def pipeline(
    *stages: Stage,
    reduce: Reduce | None = None,
    after: After | None = None,
    **changes: Any,
) -> Defense:
    """Composes stages, a reduction and a step afterwards into a defence.

    Args:
      *stages: applied in order to the cohort of finite updates.
      reduce: turns the cohort into one update; `weighted_mean()` by default.
      after: acts on the new global model.
      **changes: the optional fields of `Defense`. Those that take a state are given
        that of the pipeline: `(stage states, after state)`.
    """
    reduce = reduce or weighted_mean()

    def init(spec: FederationSpec) -> PyTree:
        return (
            tuple(stage.init(spec) for stage in stages),
            after.init(spec) if after else (),
        )

    def aggregate(state, cohort, context):
        stage_states, after_state = state
        cohort = exclude_non_finite(cohort, context)
        new_states = []
        for stage, stage_state in zip(stages, stage_states, strict=True):
            stage_state, cohort = stage.apply(stage_state, cohort, context)
            new_states.append(stage_state)
        survived = included(cohort).any()
        # With no survivor the reduction may divide by zero; its result is dropped.
        result = reduce(cohort, context)
        result = Aggregate(
            update=jnp.where(survived, result.update, 0.0),
            buffers=jnp.where(survived, result.buffers, context.global_buffers),
        )
        return (tuple(new_states), after_state), cohort, result

    def apply_after(state, model, cohort, context):
        if after is None:
            return state, model
        stage_states, after_state = state
        after_state, model = jax.lax.cond(
            included(cohort).any(),
            lambda: after.apply(after_state, model, cohort, context),
            lambda: (after_state, model),
        )
        return (stage_states, after_state), model

    return Defense(init, aggregate, apply_after, **changes)


def filtered(stage: Stage, defense: Defense, **changes: Any) -> Defense:
    """Puts a stage in front of a whole defence.

    Args:
      stage: sees the cohort of finite updates first.
      defense: judges and aggregates the clients that remain.
      **changes: optional fields of `Defense`. Those that take a state are given
        `(stage state, state of the defence)`.
    """

    def init(spec):
        return stage.init(spec), defense.init(spec)

    def aggregate(state, cohort, context):
        stage_state, defense_state = state
        cohort = exclude_non_finite(cohort, context)
        stage_state, cohort = stage.apply(stage_state, cohort, context)
        defense_state, cohort, result = defense.aggregate(
            defense_state, cohort, context
        )
        return (stage_state, defense_state), cohort, result

    def after(state, model, cohort, context):
        stage_state, defense_state = state
        defense_state, model = defense.after(defense_state, model, cohort, context)
        return (stage_state, defense_state), model

    return Defense(init, aggregate, after, **changes)
