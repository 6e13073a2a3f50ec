"""What a defence is: stages on a cohort, a reduction, and a step afterwards.

As optax composes gradient transformations, a defence composes stages:

    def droplet(*, penalty=1.0, reward=0.5):
        return pipeline(ward_clusters(), activity_monitor(penalty, reward))

Letters used in shapes: `n` clients of a round (the cohort), `N` clients of the
population, `d` trainable parameters, `b` buffer entries (BatchNorm statistics).

The contract of every stage and reduction, checked for each registered defence by
`tests/defenses/test_contract.py`:

* a client of weight 0 has no influence on anything;
* the order of the clients does not matter (`pipeline` shows them by ascending id), and
  exact ties go to the smaller client id;
* a NaN or Inf update never reaches the global model: `pipeline` gives such a client
  weight 0 before the first stage and reports it;
* a round without survivors keeps the global model and says so in the report;
* the functions are pure and can be jitted, scanned over rounds and vmapped over
  seeds; their state is a pytree of arrays whose shapes never change.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network

PyTree = Any


class Cohort(NamedTuple):
    """What the clients of one round sent, and what the stages made of it."""

    updates: Array  # f32 [n, d], local minus global parameters
    buffers: Array  # f32 [n, b], local running statistics (not differences)
    weights: Array  # f32 [n], 0 = excluded
    client_ids: Array  # i32 [n], ids in the population, distinct
    num_examples: Array  # i32 [n], local training samples
    scores: dict[str, Array]  # named per-client values for the report, each [n]


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
    network: Network  # what the parameters are parameters of
    malicious: Array  # bool [n], who attacks: for oracles only
    root: Root | None = None  # for defences with a `RootRequest`; see `root_of`
    local_lr: Array | None = None  # f32 [], the clients' learning rate in this round
    local_steps: Array | None = None  # f32 [n], optimiser steps of each client in it


class Aggregate(NamedTuple):
    """The outcome of a reduction: one update and the new running statistics."""

    update: Array  # f32 [d]
    buffers: Array  # f32 [b]


class Stage(NamedTuple):
    """One step of a defence that filters, reweighs or changes clients.

    `init(spec) -> state` may raise `InputError` for an impossible federation;
    `apply(state, cohort, context) -> (state, cohort)` is pure. Where a stage in front
    of a rule lets clients stand for others, `settle(cohort it gave, cohort as judged)
    -> cohort` says in the report what became of those.
    """

    init: Callable[[FederationSpec], PyTree]
    apply: Callable[[PyTree, Cohort, RoundContext], tuple[PyTree, Cohort]]
    settle: Callable[[Cohort, Cohort], Cohort] | None = None


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


class Groups(NamedTuple):
    """Clients divided into G groups: `of(state) -> i32 [N]`, from 0 to G - 1.

    `models(state, global model)` gives the models of the groups, leading axis G.
    """

    num_groups: int  # G
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
      client_side: what the rule asks of benign clients, where it is made of two halves
        (FLIP).
      eligible: `(state) -> bool [N]`, which clients may be sampled.
      owed: `(state) -> f32 [N]`, what the rule holds against each client from earlier
        rounds, 0 for nothing; an attacker who knows the rule may wait until it is less.
      broadcast: `(state, global model, client_id) -> model`, where clients do not all
        start from the global model.
      groups: the clients that share a model; an attacker of one group sees nothing
        of another.
      memory: `(spec) -> bytes` that its step needs besides the state and the updates.
      predict: `(state, model, network, images f32 [B, H, W, C]) -> i32 [B]` replaces
        the argmax of the global model at evaluation; -1 refuses an answer.
      distills: `(round, from 1) -> bool`, whether the round ends with a distillation,
        after which the model is another one; for the summary.
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
    start: Callable[[GlobalModel, Root | None, Array], GlobalModel] | None = None
    client_side: ClientSide | None = None
    eligible: Callable[[PyTree], Array] | None = None
    owed: Callable[[PyTree], Array] | None = None
    broadcast: Callable[[PyTree, GlobalModel, Array], GlobalModel] | None = None
    groups: Groups | None = None
    memory: Callable[[FederationSpec], int] | None = None
    predict: Callable[[PyTree, GlobalModel, Network, Array], Array] | None = None
    distills: Callable[[int], bool] | None = None
    settings: object = None


def root_of(context: RoundContext) -> Root:
    """Returns the server's samples, for a defence with a `RootRequest`.

    Raises:
      ValueError: the defence did not ask for any.
    """
    if context.root is None:
        raise ValueError("the defence has no root samples: it needs a RootRequest")
    return context.root


def included(cohort: Cohort) -> Array:
    """Returns bool [n]: the clients that still count."""
    return cohort.weights > 0


def exclude(cohort: Cohort, mask: Array) -> Cohort:
    """Gives weight 0 to the clients of `mask` (bool [n])."""
    return cohort._replace(weights=jnp.where(mask, 0.0, cohort.weights))


def with_score(cohort: Cohort, name: str, value: Array) -> Cohort:
    """Adds the per-client value `name` ([n]) to the report."""
    return cohort._replace(scores={**cohort.scores, name: value})
