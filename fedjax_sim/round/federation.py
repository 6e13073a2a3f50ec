"""One round of federated learning under attack, as a pure function.

    sample -> train -> attack -> defend -> server step

`round_step(state, inputs) -> (state, report)` composes everything and knows no disk,
clock or terminal; it can be jitted, looped over rounds and vmapped over seeds.
`run_rounds` loops it on the device without returning to Python.

Letters: `N` population, `n` cohort, `d` parameters, `b` buffer entries.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim.contracts.attack import Attack, AttackSpec, CraftView, LocalTools
from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    FederationSpec,
    GlobalModel,
    Root,
    RoundContext,
    included,
)
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data.normalize import normalize
from fedjax_sim.models import Network
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.participation.sampling import Participation
from fedjax_sim.round import attack_effect, training
from fedjax_sim.round.batches import Reader, TrainData
from fedjax_sim.round.execution import Strategy, run_clients
from fedjax_sim.round.training import ClientResult, ClientTask, LocalWork

PyTree = Any
Options = dict[str, Array]  # of the two sides, by "section.key"; see `program`


class FedState(NamedTuple):
    """Everything that a run carries from round to round, and a checkpoint holds."""

    round: Array  # i32 [], rounds done
    params: Array  # f32 [d]
    buffers: Array  # f32 [b]
    server: PyTree  # state of the server optimiser
    defense: PyTree
    attack: PyTree
    momentum: PyTree = ()  # f32 [N, d], of clients whose momentum persists


class Hyper(NamedTuple):
    """Numbers a sweep may vary without a new compilation."""

    learning_rate: Array | float
    momentum: Array | float
    weight_decay: Array | float
    server_lr: Array | float
    options: Options = {}  # noqa: RUF012 - never written to


# Attack and defence, with these options instead of the config's.
Sides = Callable[[Options], tuple[Attack, Defense]]


class RootData(NamedTuple):
    """The server's own samples, m of them."""

    train: TrainData  # of one client, the server
    images: Array  # u8 [m, H, W, C], augmented once if the defence asked for it


class Inputs(NamedTuple):
    """What stays the same in all rounds of a run."""

    key: Array  # root key of the run
    data: TrainData
    malicious: Array  # bool [N]
    hyper: Hyper
    root: RootData | None = None  # for a defence that asks for it


class RoundReport(NamedTuple):
    """What happened in a round."""

    round: Array  # i32 []
    client_ids: Array  # i32 [n]
    present: Array  # bool [n], False: an empty place of the cohort
    malicious: Array  # bool [n], by the fixed set
    active: Array  # bool [], the malicious clients attacked in this round
    weights: Array  # f32 [n], 0 = excluded from the aggregate
    losses: Array  # f32 [n], mean local training loss
    update_norms: Array  # f32 [n]
    global_norm: Array  # f32 [], length of the step of the global model
    skipped: Array  # bool [], no client survived
    scores: dict[str, Array]  # of the defence, [n] each
    attack: dict[str, Array]  # of the attack, [] each, or [groups]
    clock: Array  # i32 [2, 2], (s, us) after training and after the server step


class Federation(NamedTuple):
    """A federation: its static parts and its pure functions."""

    network: Network
    spec: FederationSpec
    init: Callable[[Inputs], FedState]
    round_step: Callable[[FedState, Inputs], tuple[FedState, RoundReport]]
    eligible: Callable[[FedState, Inputs], Array]
    can_expel: bool  # the defence may ban clients for good
    # (state before a round, inputs, its report, delta f32 [d]) -> delta after it, by
    # the recursion of `attack_effect`; None where it does not hold: with a server
    # optimiser, or clients whose training has a memory.
    carry_effect: Callable[[FedState, Inputs, RoundReport, Array], Array] | None


class Coupled(NamedTuple):
    """A run and the same run without its attackers, after the same rounds."""

    main: FedState
    twin: FedState
    effect: Array  # f32 [d], the attack effect by its recursion; see `couple`


def _clock_of(dependency: Array, origin: float) -> Array:
    """Reads the host's clock once `dependency` is known; i32 (seconds, microseconds).

    Only the clock is read: it says when a phase ended and has no part in any result.
    """

    def read(_):
        elapsed = time.monotonic() - origin
        return np.array([elapsed // 1, elapsed % 1 * 1e6], np.int32)

    shape = jax.ShapeDtypeStruct((2,), jnp.int32)
    return jax.pure_callback(read, shape, dependency, vmap_method="sequential")


def make_federation(
    *,
    network: Network,
    reader: Reader,
    work: LocalWork,
    participation: Participation,
    sides: Sides,
    population: int,
    num_malicious: int,
    attack_spec: AttackSpec | None = None,
    server_optimizer: Callable[[Array], optax.GradientTransformation] | None = None,
    lr_factor: Callable[[Array], Array] | None = None,
    strategy: Strategy,
    mesh: Mesh | None = None,
    clock_origin: float | None = None,
) -> Federation:
    """Composes a federation.

    Args:
      network: what the clients train.
      reader: how samples become batches (with the attack's poison).
      work: local epochs or steps and batch size.
      participation: schedule of cohorts.
      sides: gives attack and defence. It is called with no options once, and inside
        of the program with traced ones: which seams a side uses must not depend on
        them.
      population: N, fake clients included.
      num_malicious: M, how many of them are malicious.
      attack_spec: facts the attack's state is built from.
      server_optimizer: `server_lr -> optax transformation` applied to the negative
        aggregate as a gradient (Reddi et al. 2021, "Adaptive Federated
        Optimization"); None adds server_lr times the aggregate.
      lr_factor: `round -> factor` of the local learning rate; None keeps it.
      strategy: how clients are stacked; see `round.execution`.
      mesh: devices to share the clients among.
      clock_origin: `time.monotonic()` at the start; None leaves the clock unread.

    Raises:
      InputError: the defence cannot work with such a federation.
    """
    model, layout, buffer_layout = network[:3]
    cohort_size = participation.cohort_size
    spec = FederationSpec(
        population, cohort_size, num_malicious, layout, buffer_layout.size, network
    )
    _, usual = sides({})
    # An impossible federation is refused here; the state itself needs the run's key.
    jax.eval_shape(lambda key: usual.init(spec._replace(key=key)), jax.random.key(0))

    def root(inputs: Inputs) -> Root | None:
        if usual.root is None:
            return None
        return _root(network, reader, work, usual, inputs)

    def init(inputs: Inputs) -> FedState:
        attack, defense = sides(inputs.hyper.options)
        params, buffers = map(ravel, model.init(stream(inputs.key, Purpose.MODEL_INIT)))
        if defense.start is not None:
            params, buffers = defense.start(
                GlobalModel(params, buffers),
                root(inputs),
                stream(inputs.key, Purpose.DEFENSE, 0),
            )
        optimizer = server_optimizer and server_optimizer(inputs.hyper.server_lr)
        own = spec._replace(key=stream(inputs.key, Purpose.DEFENSE, 0))
        attack_state = jax.tree.map(jnp.asarray, attack.init(attack_spec))
        if usual.groups is not None:  # the attackers of each have a state of their own
            attack_state = jax.tree.map(
                lambda x: jnp.stack([x] * usual.groups.count), attack_state
            )
        return FedState(
            round=jnp.int32(0),
            params=params,
            buffers=buffers,
            server=optimizer.init(params) if optimizer else (),
            defense=jax.tree.map(jnp.asarray, defense.init(own)),
            attack=attack_state,
            momentum=jnp.zeros((population, layout.size))
            if work.persist_momentum
            else (),
        )

    def eligible(state: FedState, inputs: Inputs) -> Array:
        _, defense = sides(inputs.hyper.options)
        if defense.eligible is None:
            return jnp.ones(population, bool)
        return defense.eligible(state.defense)

    def in_round(inputs: Inputs, round_index: Array) -> Inputs:
        """With the learning rate of the round."""
        if lr_factor is None:
            return inputs
        rate = inputs.hyper.learning_rate * lr_factor(round_index)
        return inputs._replace(hyper=inputs.hyper._replace(learning_rate=rate))

    def run_cohort(train, shared, inputs, round_index, ids, present, attacking, now):
        """`train(shared, task)` for the clients of a round, those of `now` only."""
        client_key = stream(inputs.key, Purpose.LOCAL_TRAINING, round_index)
        tasks = ClientTask(
            client_id=ids,
            malicious=attacking,
            present=now,
            round=jnp.full(cohort_size, round_index),
            key=jax.vmap(jax.random.fold_in, (None, 0))(client_key, ids),
        )
        counts = jnp.where(present, inputs.data.counts[ids], 0)
        steps = training.num_steps(work, counts)
        return run_clients(train, shared, tasks, steps, strategy=strategy, mesh=mesh)

    def round_step(state: FedState, inputs: Inputs) -> tuple[FedState, RoundReport]:
        attack, defense = sides(inputs.hyper.options)
        train = _client_trainer(network, reader, work, attack, defense)
        round_index = state.round + 1
        inputs = in_round(inputs, round_index)
        active = attack.active(round_index) if attack.active else jnp.bool_(True)
        before = GlobalModel(state.params, state.buffers)
        attack_state = state.attack
        if attack.observe is not None:
            attack_state = _observe(
                attack, attack_state, round_index, before, defense, state.defense
            )

        ids, present = participation.sample(
            stream(inputs.key, Purpose.PARTICIPATION, round_index),
            round_index,
            inputs.malicious,
            eligible(state, inputs),
        )
        attacking = inputs.malicious[ids] & active & present

        results = run_cohort(
            train,
            (
                inputs,
                before,
                state.defense if defense.broadcast or defense.client_training else (),
                attack_state,
                state.momentum,
            ),
            inputs,
            round_index,
            ids,
            present,
            attacking,
            present if attack.trains else present & ~attacking,
        )
        if mesh is not None:
            whole = NamedSharding(mesh, P())
            results = lax.with_sharding_constraint(results, whole)

        updates = results.update
        defense_state = state.defense
        if defense.client_training is not None:
            memory = jax.tree.map(
                lambda all_, own: all_.at[ids].set(own),
                defense.client_training.memory(defense_state),
                results.memory,
            )
            defense_state = defense.client_training.remember(defense_state, memory)
        momentum = state.momentum
        if work.persist_momentum:
            # What a diverged client had is forgotten.
            kept = present & jnp.isfinite(results.momentum).all(1)
            own = jnp.where(kept[:, None], results.momentum, 0.0)
            own = jnp.where(present[:, None], own, momentum[ids])
            momentum = momentum.at[ids].set(own)
        if attack.craft is not None:
            view = CraftView(
                round=round_index,
                key=stream(inputs.key, Purpose.ATTACK, round_index),
                global_params=state.params,
                updates=updates,
                malicious=attacking,
                present=present,
                client_ids=ids,
                defense=state.defense,
                settings=defense.settings,
                network=network,
            )
            attack_state, updates = _craft(attack, attack_state, view, defense, before)
        no_clock = jnp.zeros(2, jnp.int32)
        clock = lambda x: (
            no_clock if clock_origin is None else _clock_of(x, clock_origin)
        )
        trained = clock(results.loss)

        cohort = Cohort(
            updates=updates,
            buffers=results.buffers,
            weights=present.astype(jnp.float32),
            client_ids=ids,
            num_examples=jnp.where(present, inputs.data.counts[ids], 0),
            scores={},
        )
        context = RoundContext(
            round=round_index,
            key=stream(inputs.key, Purpose.DEFENSE, round_index),
            global_params=state.params,
            global_buffers=state.buffers,
            root=root(inputs),
            network=network,
            malicious=attacking,
        )
        update_norms = jnp.linalg.norm(updates, axis=1)
        defense_state, cohort, aggregate = defense.aggregate(
            defense_state, cohort, context
        )
        survived = included(cohort).any()
        rate = inputs.hyper.server_lr
        if server_optimizer is None:
            server_state, step = state.server, rate * aggregate.update
            buffers = rate * aggregate.buffers + (1 - rate) * state.buffers
        else:
            step, server_state = server_optimizer(rate).update(
                -aggregate.update, state.server, state.params
            )
            # A round without survivors moves neither model nor optimiser.
            step = jnp.where(survived, step, 0.0)
            server_state = jax.tree.map(
                lambda new, old: jnp.where(survived, new, old),
                server_state,
                state.server,
            )
            buffers = aggregate.buffers
        buffers = jnp.where(survived, buffers, state.buffers)
        defense_state, model_after = defense.after(
            defense_state, GlobalModel(state.params + step, buffers), cohort, context
        )
        new_state = FedState(
            round=round_index,
            params=model_after.params,
            buffers=model_after.buffers,
            server=server_state,
            defense=defense_state,
            attack=attack_state,
            momentum=momentum,
        )
        report = RoundReport(
            round=round_index,
            client_ids=ids,
            present=present,
            malicious=inputs.malicious[ids],
            active=active,
            weights=cohort.weights,
            losses=results.loss,
            update_norms=update_norms,
            global_norm=jnp.linalg.norm(model_after.params - state.params),
            skipped=~survived,
            scores=cohort.scores,
            attack=_attack_report(attack, attack_state, defense),
            clock=jnp.stack([trained, clock(model_after.params[:1])]),
        )
        return new_state, report

    def carry_effect(
        state: FedState, inputs: Inputs, report: RoundReport, delta: Array
    ) -> Array:
        _, defense = sides(inputs.hyper.options)
        inputs = in_round(inputs, report.round)
        carried = run_cohort(
            _effect_carrier(network, reader, work, defense),
            (inputs, GlobalModel(state.params, state.buffers), state.defense, delta),
            inputs,
            report.round,
            report.client_ids,
            report.present,
            jnp.zeros_like(report.present),
            report.present,
        )
        weights = report.weights / jnp.where(report.skipped, 1.0, report.weights.sum())
        carried = jnp.where(weights[:, None] > 0, carried, 0.0)  # NaN of the excluded
        moved = delta + inputs.hyper.server_lr * (weights @ carried - delta)
        return jnp.where(report.skipped, delta, moved)

    holds = server_optimizer is None and usual.client_training is None
    return Federation(
        network,
        spec,
        init,
        round_step,
        eligible,
        can_expel=usual.eligible is not None,
        carry_effect=carry_effect if holds else None,
    )


def couple(main: Federation, twin: Federation | None) -> tuple[Callable, Callable]:
    """Returns `init` and `round_step` of a run and its twin together.

    Their states are `Coupled`, or `(state,)` without a twin. `effect` is the measured
    difference of the two models after a round with attackers, and from there on is
    carried through the rounds without by `Federation.carry_effect`; NaN where that is
    None.

    Args:
      main: the run.
      twin: the same federation without the attack.
    """
    if twin is None:

        def only_step(states, inputs):
            state, report = main.round_step(states[0], inputs)
            return (state,), report

        return (lambda inputs: (main.init(inputs),)), only_step

    def init(inputs: Inputs) -> Coupled:
        state = main.init(inputs)
        return Coupled(state, twin.init(inputs), jnp.zeros_like(state.params))

    def round_step(states: Coupled, inputs: Inputs) -> tuple[Coupled, RoundReport]:
        state, report = main.round_step(states.main, inputs)
        clean, _ = twin.round_step(states.twin, inputs)
        if main.carry_effect is None:
            effect = jnp.full_like(states.effect, jnp.nan)
        else:
            attacked = (report.active & report.malicious & report.present).any()
            effect = lax.cond(
                attacked,
                lambda: state.params - clean.params,
                lambda: main.carry_effect(states.main, inputs, report, states.effect),
            )
        return Coupled(state, clean, effect), report

    return init, round_step


def _root(network, reader, work, defense, inputs) -> Root:
    """The server's samples, and local training on them as a client would do it."""
    reader = reader._replace(poison=None)
    gradient = training.batch_gradient(network.model, work.microbatch)
    hyper, request, data = inputs.hyper, defense.root, inputs.root
    own = lambda asked, usual: usual if asked is None else asked
    optimizer = training.sgd(
        hyper.learning_rate,
        own(request.momentum, hyper.momentum),
        own(request.weight_decay, hyper.weight_decay),
    )

    def train(model: GlobalModel, key: Array) -> GlobalModel:
        params, buffers, *_ = training.train_client(
            reader=reader,
            work=work,
            gradient=gradient,
            optimizer=optimizer,
            data=data.train,
            params=network.layout.unravel(model.params),
            buffers=network.buffer_layout.unravel(model.buffers),
            task=ClientTask(
                client_id=jnp.int32(0),
                malicious=jnp.bool_(False),
                present=jnp.bool_(True),
                round=jnp.int32(0),
                key=key,
            ),
        )
        return GlobalModel(ravel(params), ravel(buffers))

    images = normalize(data.images, reader.normalization)
    return Root(images, data.train.labels, train)


def _received(defense, state, model: GlobalModel, client_id) -> GlobalModel:
    """The model that a client starts from."""
    if defense.broadcast is None:
        return model
    return defense.broadcast(state, model, client_id)


def _client_trainer(network, reader, work, attack, defense):
    """Returns `train(shared, task) -> ClientResult` for benign and malicious alike."""
    gradient = training.batch_gradient(network.model, work.microbatch)

    def train(shared, task):
        inputs, model, defense_state, attack_state, momenta = shared
        model = _received(defense, defense_state, model, task.client_id)
        if defense.groups is not None:
            group = defense.groups.of(defense_state)[task.client_id]
            attack_state = jax.tree.map(lambda x: x[group], attack_state)
        hyper = inputs.hyper
        rates = hyper.learning_rate, hyper.momentum, hyper.weight_decay
        params = network.layout.unravel(model.params)

        memory = None
        if defense.client_training is not None:
            everyone = defense.client_training.memory(defense_state)
            memory = jax.tree.map(lambda x: x[task.client_id], everyone)

        momentum = None
        if work.persist_momentum:
            momentum = network.layout.unravel(momenta[task.client_id])

        def run(params, buffers, optimizer, gradient, **options):
            return training.train_client(
                reader=reader,
                optimizer=optimizer,
                gradient=gradient,
                data=inputs.data,
                params=params,
                buffers=buffers,
                task=task,
                **{"work": work, "momentum": momentum, **options},
            )

        def as_benign(params, buffers):
            optimizer = (defense.client_optimizer or training.sgd)(*rates)
            if memory is None:
                return run(params, buffers, optimizer, gradient)
            own = defense.client_training.gradient(network, reader.normalization)
            return run(params, buffers, optimizer, own, memory=memory)

        def as_malicious(params, buffers):
            optimizer = training.sgd(*rates)
            if attack.local_transform is not None:
                own = attack.local_transform(attack_state, network.layout)
                optimizer = optax.chain(own, optimizer)
            if attack.local_stages is None:
                *local, _, buffer = run(params, buffers, optimizer, gradient)
                return *local, memory, buffer
            tools = LocalTools(
                state=attack_state,
                model=network.model,
                normalization=reader.normalization,
                task=task,
                hyper=hyper,
                epochs=work.epochs,
                gradient=gradient,
                optimizer=optimizer,
                global_params=params,
            )
            done, loss = 0, jnp.float32(0)
            for stage in attack.local_stages(tools):
                params, buffers, loss, *_ = run(
                    params,
                    buffers,
                    stage.optimizer,
                    stage.gradient,
                    work=training.with_epochs(work, stage.epochs),
                    first_epoch=done,
                    momentum=None,
                )
                done += stage.epochs
            return params, buffers, loss, memory, momentum

        same = (
            defense.client_optimizer is None
            and defense.client_training is None
            and attack.local_transform is None
            and attack.local_stages is None
        )
        start = params, network.buffer_layout.unravel(model.buffers)
        if same:  # poison alone differs, and that is data
            trained = as_benign(*start)
        else:
            trained = lax.cond(task.malicious, as_malicious, as_benign, *start)
        local, buffers, loss, memory, momentum = trained
        update = ravel(local) - model.params
        if defense.client_release is not None:
            key = stream(inputs.key, Purpose.CLIENT_RELEASE, task.round, task.client_id)
            benign = task.present & ~task.malicious
            released = defense.client_release(update, key)
            update = jnp.where(benign, released, update)
        kept = ravel(momentum) if work.persist_momentum else ()
        return ClientResult(update, ravel(buffers), loss, memory, kept)

    return train


def _effect_carrier(network, reader, work, defense):
    """Returns `train(shared, task) -> f32 [d]`: delta behind a client's local steps."""
    # The whole batch: parts of it are a loop, which has no second derivative.
    gradient = training.batch_gradient(network.model, None)

    def train(shared, task):
        inputs, model, defense_state, delta = shared
        model = _received(defense, defense_state, model, task.client_id)
        hyper = inputs.hyper
        rates = hyper.learning_rate, hyper.momentum, hyper.weight_decay
        _, _, _, delta, _ = training.train_client(
            reader=reader,
            work=work,
            gradient=attack_effect.with_effect(gradient, hyper.learning_rate),
            optimizer=(defense.client_optimizer or training.sgd)(*rates),
            data=inputs.data,
            params=network.layout.unravel(model.params),
            buffers=network.buffer_layout.unravel(model.buffers),
            task=task,
            memory=network.layout.unravel(delta),
        )
        return ravel(delta)

    return train


def _observe(attack, attack_state, round_index, model, defense, defense_state):
    """Shows the attack the broadcast model, those of each group that of their own."""
    if defense.groups is None:
        return attack.observe(attack_state, round_index, model.params)
    models = defense.groups.models(defense_state, model)
    observe = jax.vmap(attack.observe, (0, None, 0))
    return observe(attack_state, round_index, models.params)


def _craft(attack, attack_state, view, defense, model):
    """Lets the attack replace its own rows, seeing only what it declares to know."""
    informed = "aggregation_rule" in attack.knowledge
    known = view.present if "benign_updates" in attack.knowledge else view.malicious
    shown = view._replace(
        updates=jnp.where(known[:, None], view.updates, 0.0),
        defense=view.defense if informed else None,
        settings=view.settings if informed else None,
    )
    taken = attack.takes_over or (lambda own: own.malicious)
    if defense.groups is None:
        attack_state, crafted = attack.craft(attack_state, shown)
        return attack_state, jnp.where(taken(shown)[:, None], crafted, view.updates)

    # The attackers of each group act on their own, from a state of their own.
    group_of = defense.groups.of(view.defense)[view.client_ids]
    models = defense.groups.models(view.defense, model)

    def act(group, carry):
        states, updates = carry
        member = group_of == group
        own = shown._replace(
            global_params=models.params[group],
            updates=jnp.where(member[:, None], shown.updates, 0.0),
            malicious=view.malicious & member,
            present=view.present & member,
        )
        state, crafted = attack.craft(jax.tree.map(lambda x: x[group], states), own)
        states = jax.tree.map(lambda all_, x: all_.at[group].set(x), states, state)
        return states, jnp.where(taken(own)[:, None], crafted, updates)

    return lax.fori_loop(0, defense.groups.count, act, (attack_state, view.updates))


def _attack_report(attack, attack_state, defense):
    if attack.report is None:
        return {}
    per_group = defense.groups is not None
    return (jax.vmap(attack.report) if per_group else attack.report)(attack_state)


def run_rounds(
    round_step: Callable[[PyTree, Inputs], tuple[PyTree, RoundReport]],
    state: PyTree,
    inputs: Inputs,
    num_rounds: Array,
    capacity: int,
) -> tuple[PyTree, RoundReport]:
    """Runs `num_rounds` rounds on the device.

    The number of rounds is an argument and not a shape: every round of every call
    runs the same compiled code, so a run may be cut anywhere and resumed bit by bit.
    (A `lax.scan` would compile one program per length, with other roundings.)

    Args:
      round_step: of a federation, or of a coupled pair.
      state: before the first of these rounds.
      inputs: of the run.
      num_rounds: i32 [], at most `capacity`.
      capacity: static number of rounds the returned reports have room for.

    Returns:
      The state afterwards, and the reports with a leading axis `capacity`, of which
      the first `num_rounds` are filled.
    """
    shapes = jax.eval_shape(round_step, state, inputs)[1]
    reports = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def body(i, carry):
        state, reports = carry
        state, report = round_step(state, inputs)
        reports = jax.tree.map(lambda all_, one: all_.at[i].set(one), reports, report)
        return state, reports

    return lax.fori_loop(0, num_rounds, body, (state, reports))
