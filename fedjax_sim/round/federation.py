"""One round of federated learning under attack, as a pure function.

    open_round -> train -> attack -> defend -> step

`round_step(parts, state, inputs) -> (state, report)` composes the five and knows no
disk, clock or terminal; it can be jitted, looped over rounds and vmapped over seeds.
`run_rounds` loops it on the device without returning to Python. Clients train in the
precision of the network; everything else multiplies in full float32.

Letters: `N` population, `n` cohort, `d` parameters, `b` buffer entries.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim.contracts.attack import Answer, AttackSpec, CraftView
from fedjax_sim.contracts.client import ClientTask
from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Root,
    RoundContext,
    included,
)
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.precision import highest
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.numerics.rows import take_rows
from fedjax_sim.round import training
from fedjax_sim.round.adversary import adversary
from fedjax_sim.round.batches import Reader
from fedjax_sim.round.execution import Strategy, run_clients
from fedjax_sim.round.local_work import (
    Shared,
    client_trainer,
    round_tools,
    server_root,
    trained_once,
)
from fedjax_sim.round.state import FedState, Inputs, MakeSides, RoundReport, Sides
from fedjax_sim.round.training import ClientResult, LocalWork

PyTree = Any
ROUNDS = "rounds"  # the name of the loop over them, see `training.STEPS`


class Parts(NamedTuple):
    """What a federation is made of; nothing here changes during a run.

    Attributes:
      network: what the clients train.
      spec: the federation's sizes.
      reader: how samples become batches (with the attack's poison).
      work: local epochs or steps and batch size.
      participation: schedule of cohorts.
      sides: gives the three sides. It is called with no options outside of the program,
        and inside with traced ones: which seams a side uses must not depend on them.
      attack_spec: facts the attack's state is built from.
      strategy: how clients are stacked; see `round.execution`.
      server_optimizer: `server_lr -> optax transformation` applied to the negative
        aggregate as a gradient (Reddi et al. 2021, "Adaptive Federated
        Optimization"); None adds server_lr times the aggregate.
      lr_factor: `round -> factor` of the local learning rate; None keeps it.
      mesh: devices to share the clients among.
    """

    network: Network
    spec: FederationSpec
    reader: Reader
    work: LocalWork
    participation: Participation
    sides: MakeSides
    attack_spec: AttackSpec
    strategy: Strategy
    server_optimizer: Callable[[Array | float], optax.GradientTransformation] | None = (
        None
    )
    lr_factor: Callable[[Array], Array] | None = None
    mesh: Mesh | None = None


def check(parts: Parts) -> None:
    """Refuses an impossible federation before anything is compiled.

    Raises:
      InputError: a rule cannot work with such a federation.
    """
    defense = parts.sides({}).defense
    keyed = lambda key: defense.init(parts.spec._replace(key=key))
    jax.eval_shape(keyed, jax.random.key(0))


def check_states(parts: Parts, inputs: Inputs) -> None:
    """Traces a round, and refuses states that do not keep their shapes.

    Raises:
      InputError: with the side whose state changes.
    """
    shapes = lambda tree: jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)
    before = jax.eval_shape(lambda inputs: init(parts, inputs), inputs)
    after, _ = jax.eval_shape(
        lambda state, inputs: round_step(parts, state, inputs), before, inputs
    )
    for side in ("attack", "defense", "clients"):
        was, becomes = (shapes(getattr(state, side)) for state in (before, after))
        if was != becomes:
            section = "client_defense" if side == "clients" else side
            raise InputError(
                f"config.{section}.name: the state changes in a round, from "
                f"{was} to {becomes}; it must keep its structure, shapes and types"
            )


def can_expel(parts: Parts) -> bool:
    """Whether the defence may ban clients for good."""
    return parts.sides({}).defense.eligible is not None


@highest
def init(parts: Parts, inputs: Inputs) -> FedState:
    """Returns the state before the first round."""
    attack, defense, client = parts.sides(inputs.hyper.options)
    layout = parts.network.layout
    key = stream(inputs.key, Purpose.DEFENSE, 0)
    model = inputs.start
    if model is None:
        fresh = parts.network.model.init(stream(inputs.key, Purpose.MODEL_INIT))
        model = GlobalModel(*map(ravel, fresh))
    if defense.start is not None:
        model = defense.start(model, _root(parts, inputs), key)
    optimizer = parts.server_optimizer and parts.server_optimizer(
        inputs.hyper.server_lr
    )
    foe = adversary(attack, defense.groups)
    population = parts.spec.population
    return FedState(
        round=jnp.int32(0),
        params=model.params,
        buffers=model.buffers,
        server=optimizer.init(model.params) if optimizer else (),
        defense=jax.tree.map(jnp.asarray, defense.init(parts.spec._replace(key=key))),
        attack=foe.init(parts.attack_spec),
        clients=client.training.init(parts.spec) if client.training else (),
        momentum=jnp.zeros((population, layout.size))
        if parts.work.persist_momentum
        else (),
    )


def eligible(parts: Parts, state: FedState, inputs: Inputs) -> Array:
    """Returns bool [N]: the clients that may be sampled."""
    defense = parts.sides(inputs.hyper.options).defense
    if defense.eligible is None:
        return jnp.ones(parts.spec.population, bool)
    return defense.eligible(state.defense)


# ------------------------------------------------------------------------- a round


class Opened(NamedTuple):
    """A round that has begun: who takes part."""

    sides: Sides
    inputs: Inputs  # with the learning rate of the round
    round: Array  # i32 [], from 1
    active: Array  # bool [], the malicious clients attack
    ids: Array  # i32 [n]
    present: Array  # bool [n]
    attacking: Array  # bool [n], malicious, active and present
    attack: PyTree  # state of the attack, which has seen the broadcast model


class Sent(NamedTuple):
    """What the clients of a round send, and remember."""

    updates: Array  # f32 [n, d]
    buffers: Array  # f32 [n, b]
    losses: Array  # f32 [n]
    acted: Array  # bool [n], attackers whose update is not that of a benign client
    attack: PyTree
    clients: PyTree
    momentum: PyTree


class Judged(NamedTuple):
    """What the server makes of it."""

    cohort: Cohort
    aggregate: Aggregate
    context: RoundContext
    defense: PyTree


def round_step(
    parts: Parts, state: FedState, inputs: Inputs
) -> tuple[FedState, RoundReport]:
    """Returns the state after one more round, and what happened in it."""
    opened, sent = clients_half(parts, state, inputs)
    return server_half(parts, state, opened, sent)


@highest
def clients_half(parts: Parts, state: FedState, inputs: Inputs) -> tuple[Opened, Sent]:
    """The round up to the end of the local training."""
    opened = open_round(parts, state, inputs)
    return opened, train(parts, state, opened)


@highest
def server_half(
    parts: Parts, state: FedState, opened: Opened, sent: Sent
) -> tuple[FedState, RoundReport]:
    """The round from there on."""
    sent = attack(parts, state, opened, sent)
    judged = defend(parts, state, opened, sent)
    return step(parts, state, opened, sent, judged)


def open_round(parts: Parts, state: FedState, inputs: Inputs) -> Opened:
    """Shows the attack the broadcast model and samples the cohort."""
    sides = parts.sides(inputs.hyper.options)
    round_index = state.round + 1
    active = jnp.bool_(True)
    if sides.attack.active is not None:
        active = sides.attack.active(round_index)
    foe = adversary(sides.attack, sides.defense.groups)
    broadcast = GlobalModel(state.params, state.buffers)
    seen = foe.observe(state.attack, round_index, broadcast, state.defense)
    ids, present = parts.participation.sample(
        stream(inputs.key, Purpose.PARTICIPATION, round_index),
        round_index,
        inputs.malicious,
        eligible(parts, state, inputs),
    )
    attacking = inputs.malicious[ids] & active & present
    if sides.attack.rests is not None and sides.defense.owed is not None:
        attacking &= ~sides.attack.rests(sides.defense.owed(state.defense)[ids])
    if sides.attack.prepare is not None:
        first = jnp.where(attacking, ids, parts.spec.population).min()
        tools = partial(
            round_tools, parts.network, parts.reader, parts.work, inputs, broadcast
        )
        with parts.network.in_precision():
            seen = lax.cond(
                attacking.any(),
                lambda: foe.prepare(seen, tools(round_index, first)),
                lambda: seen,
            )
    return Opened(
        sides=sides,
        inputs=at_round(parts, inputs, round_index),
        round=round_index,
        active=active,
        ids=ids,
        present=present,
        attacking=attacking,
        attack=seen,
    )


def train(parts: Parts, state: FedState, opened: Opened) -> Sent:
    """Lets the clients of the round train, all in parallel."""
    attack, defense, client = opened.sides
    shared = Shared(
        inputs=opened.inputs,
        model=GlobalModel(state.params, state.buffers),
        defense=state.defense if defense.broadcast or defense.groups else (),
        attack=opened.attack,
        clients=state.clients,
        momentum=state.momentum,
    )
    results: ClientResult = run_cohort(
        parts,
        client_trainer(parts.network, parts.reader, parts.work, opened.sides),
        shared,
        opened.inputs,
        opened.round,
        opened.ids,
        opened.present,
        opened.attacking,
        opened.present if attack.trains else opened.present & ~opened.attacking,
    )
    if parts.mesh is not None:
        whole = NamedSharding(parts.mesh, P())
        results = lax.with_sharding_constraint(results, whole)
    clients = state.clients
    if client.training is not None:
        remember = lambda all_, own: all_.at[opened.ids].set(own)
        clients = jax.tree.map(remember, clients, results.memory)
    return Sent(
        updates=results.update,
        buffers=results.buffers,
        losses=results.loss,
        acted=opened.attacking & attack.trains_otherwise,
        attack=opened.attack,
        clients=clients,
        momentum=_kept_momentum(parts, state, opened, results),
    )


def attack(parts: Parts, state: FedState, opened: Opened, sent: Sent) -> Sent:
    """Lets the attackers replace what they send."""
    sides = opened.sides
    view = CraftView(
        round=opened.round,
        key=stream(opened.inputs.key, Purpose.ATTACK, opened.round),
        global_params=state.params,
        updates=sent.updates,
        malicious=opened.attacking,
        present=opened.present,
        client_ids=opened.ids,
        defense=state.defense,
        settings=sides.defense.settings,
        network=parts.network,
        answer=_imagination(parts, state, opened, sent),
        server_lr=opened.inputs.hyper.server_lr,
    )
    foe = adversary(sides.attack, sides.defense.groups)
    broadcast = GlobalModel(state.params, state.buffers)
    attack_state, updates = foe.craft(sent.attack, view, broadcast)
    acted = sent.acted
    if sides.attack.craft is not None:
        acted |= opened.attacking & (updates != sent.updates).any(1)
    return sent._replace(attack=attack_state, updates=updates, acted=acted)


def _imagination(
    parts: Parts, state: FedState, opened: Opened, sent: Sent
) -> Callable[[Array], Answer]:
    """What an attacker who knows the rule expects it to make of updates.

    Attackers try many: the server's own training is that of all of them.
    """
    # Not the server's own key: nobody knows that.
    key = stream(opened.inputs.key, Purpose.IMAGINED_DEFENSE, opened.round)
    root = _root(parts, opened.inputs)
    if root is not None and "aggregation_rule" in opened.sides.attack.knowledge:
        root = trained_once(root, GlobalModel(state.params, state.buffers), key)

    def answer(updates: Array) -> Answer:
        imagined = sent._replace(updates=updates)
        judged = defend(parts, state, opened, imagined, key, root)
        return Answer(judged.aggregate.update, judged.cohort.weights)

    return answer


def defend(
    parts: Parts,
    state: FedState,
    opened: Opened,
    sent: Sent,
    key: Array | None = None,
    root: Root | None = None,
) -> Judged:
    """Lets the server judge and aggregate what it received.

    Args:
      parts: of the federation.
      state: before the round.
      opened: the round.
      sent: by its clients.
      key: of the rule; None is the server's own.
      root: the server's samples; None makes them.
    """
    inputs = opened.inputs
    if key is None:
        key = stream(inputs.key, Purpose.DEFENSE, opened.round)
    cohort = Cohort(
        updates=sent.updates,
        buffers=sent.buffers,
        weights=opened.present.astype(jnp.float32),
        client_ids=opened.ids,
        num_examples=jnp.where(opened.present, inputs.data.counts[opened.ids], 0),
        scores={},
    )
    context = RoundContext(
        round=opened.round,
        key=key,
        global_params=state.params,
        global_buffers=state.buffers,
        root=root or _root(parts, inputs),
        network=parts.network,
        malicious=opened.attacking,
        local_lr=jnp.asarray(inputs.hyper.learning_rate),
        local_steps=training.num_steps(parts.work, cohort.num_examples).astype("f4"),
    )
    defense_state, cohort, aggregate = opened.sides.defense.aggregate(
        state.defense, cohort, context
    )
    given = jnp.shape(aggregate.update), jnp.shape(aggregate.buffers)
    if given != (state.params.shape, state.buffers.shape):
        raise InputError(
            f"config.defense.name: update and buffers are aggregated to {given}, not "
            f"{(state.params.shape, state.buffers.shape)}"
        )
    return Judged(cohort, aggregate, context, defense_state)


def step(
    parts: Parts, state: FedState, opened: Opened, sent: Sent, judged: Judged
) -> tuple[FedState, RoundReport]:
    """Moves the global model, lets the defence act on it, and reports."""
    defense, cohort = opened.sides.defense, judged.cohort
    survived = included(cohort).any()
    model, server = _server_step(parts, state, opened, judged.aggregate, survived)
    defense_state, model = defense.after(judged.defense, model, cohort, judged.context)
    foe = adversary(opened.sides.attack, defense.groups)
    after = FedState(
        round=opened.round,
        params=model.params,
        buffers=model.buffers,
        server=server,
        defense=defense_state,
        attack=sent.attack,
        clients=sent.clients,
        momentum=sent.momentum,
    )
    report = RoundReport(
        round=opened.round,
        client_ids=opened.ids,
        present=opened.present,
        malicious=opened.inputs.malicious[opened.ids],
        active=opened.active,
        acted=sent.acted,
        weights=cohort.weights,
        losses=sent.losses,
        update_norms=jnp.linalg.norm(sent.updates, axis=1),
        global_norm=jnp.linalg.norm(model.params - state.params),
        skipped=~survived,
        scores=cohort.scores,
        attack=foe.report(sent.attack),
    )
    return after, report


def _server_step(
    parts: Parts,
    state: FedState,
    opened: Opened,
    aggregate: Aggregate,
    survived: Array,
) -> tuple[GlobalModel, PyTree]:
    """A round without survivors moves neither the model nor the optimiser."""
    rate = opened.inputs.hyper.server_lr
    if parts.server_optimizer is None:
        server, moved = state.server, rate * aggregate.update
        buffers = rate * aggregate.buffers + (1 - rate) * state.buffers
    else:
        moved, server = parts.server_optimizer(rate).update(
            -aggregate.update, state.server, state.params
        )
        moved = jnp.where(survived, moved, 0.0)
        keep = lambda new, old: jnp.where(survived, new, old)
        server = jax.tree.map(keep, server, state.server)
        buffers = aggregate.buffers
    buffers = jnp.where(survived, buffers, state.buffers)
    return GlobalModel(state.params + moved, buffers), server


def _kept_momentum(
    parts: Parts, state: FedState, opened: Opened, results: ClientResult
) -> PyTree:
    """f32 [N, d]: what a diverged client had is forgotten."""
    if not parts.work.persist_momentum:
        return state.momentum
    ids, present = opened.ids, opened.present
    kept = present & jnp.isfinite(results.momentum).all(1)
    own = jnp.where(kept[:, None], results.momentum, 0.0)
    own = jnp.where(present[:, None], own, take_rows(state.momentum, ids))
    return state.momentum.at[ids].set(own)


def _root(parts: Parts, inputs: Inputs) -> Root | None:
    request = parts.sides({}).defense.root
    if request is None:
        return None
    return server_root(parts.network, parts.reader, parts.work, request, inputs)


def at_round(parts: Parts, inputs: Inputs, round_index: Array) -> Inputs:
    """Returns the inputs with the local learning rate of a round."""
    if parts.lr_factor is None:
        return inputs
    rate = inputs.hyper.learning_rate * parts.lr_factor(round_index)
    return inputs._replace(hyper=inputs.hyper._replace(learning_rate=rate))


def run_cohort(
    parts: Parts,
    train: Callable[[PyTree, ClientTask], PyTree],
    shared: PyTree,
    inputs: Inputs,
    round_index: Array,
    ids: Array,
    present: Array,
    attacking: Array,
    now: Array,
) -> PyTree:
    """Runs `train(shared, task)` for the clients of a round, those of `now` only.

    Args:
      parts: of the federation.
      train: of one client; pure.
      shared: what every client reads.
      inputs: of the run.
      round_index: i32 [], from 1.
      ids: i32 [n].
      present, attacking, now: bool [n].
    """
    client_key = stream(inputs.key, Purpose.LOCAL_TRAINING, round_index)
    tasks = ClientTask(
        client_id=ids,
        malicious=attacking,
        present=now,
        round=jnp.full(ids.shape, round_index),
        key=jax.vmap(jax.random.fold_in, (None, 0))(client_key, ids),
    )
    counts = jnp.where(present, inputs.data.counts[ids], 0)
    steps = training.num_steps(parts.work, counts)
    with parts.network.in_precision():
        return run_clients(
            train, shared, tasks, steps, strategy=parts.strategy, mesh=parts.mesh
        )


# -------------------------------------------------------------------- many rounds


def run_rounds(
    one_round: Callable[[PyTree, Inputs], tuple[PyTree, PyTree]],
    state: PyTree,
    inputs: Inputs,
    num_rounds: Array | int,
    capacity: int,
) -> tuple[PyTree, PyTree]:
    """Runs `num_rounds` rounds on the device.

    The number of rounds is an argument and not a shape: every round of every call
    runs the same compiled code, so a run may be cut anywhere and resumed bit by bit.
    (A `lax.scan` would compile one program per length, with other roundings.)

    Args:
      one_round: `(state, inputs) -> (state, report)`: `round_step` of a federation, or
        of a coupled pair, or with a clock.
      state: before the first of these rounds.
      inputs: of the run.
      num_rounds: i32 [], at most `capacity`.
      capacity: static number of rounds the returned reports have room for.

    Returns:
      The state afterwards, and the reports with a leading axis `capacity`, of which
      the first `num_rounds` are filled.
    """
    shapes = jax.eval_shape(one_round, state, inputs)[1]
    reports = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def body(i, carry):
        state, reports = carry
        state, report = one_round(state, inputs)
        reports = jax.tree.map(lambda all_, one: all_.at[i].set(one), reports, report)
        return state, reports

    with jax.named_scope(ROUNDS):
        return lax.fori_loop(0, num_rounds, body, (state, reports))
