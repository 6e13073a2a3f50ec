"""What a client does with the model it receives, benign or malicious.

Letters: `N` population, `n` cohort, `d` parameters, `b` buffer entries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.contracts.attack import LocalModel, LocalTools, RoundTools
from fedjax_sim.contracts.client import ClientContext, ClientTask
from fedjax_sim.contracts.defense import Defense, Root, RootRequest
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data.normalize import normalize
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round import training
from fedjax_sim.round.adversary import adversary
from fedjax_sim.round.batches import Reader, own_data
from fedjax_sim.round.state import Inputs, Sides
from fedjax_sim.round.training import ClientResult, LocalWork

PyTree = Any


class Shared(NamedTuple):
    """What every client of a round reads."""

    inputs: Inputs
    model: GlobalModel  # the global one
    defense: PyTree  # state of the defence, where clients do not all get that model
    attack: PyTree
    clients: PyTree  # what benign clients remember, leading axis N
    momentum: PyTree  # f32 [N, d], or ()


def received(
    defense: Defense, state: PyTree, model: GlobalModel, client_id: Array
) -> GlobalModel:
    """The model that a client starts from."""
    if defense.broadcast is None:
        return model
    return defense.broadcast(state, model, client_id)


def client_trainer(
    network: Network, reader: Reader, work: LocalWork, sides: Sides
) -> Callable[[Shared, ClientTask], ClientResult]:
    """Returns `train(shared, task)` for benign and malicious clients alike."""
    attack, defense, client = sides
    gradient = training.batch_gradient(network.model, work.microbatch)
    foe = adversary(attack, defense.groups)
    benign_optimizer = client.optimizer or training.sgd
    # Poison alone is data: then one program serves both.
    same = (
        client.optimizer is None
        and client.training is None
        and attack.local_transform is None
        and attack.local_stages is None
    )

    def train(shared: Shared, task: ClientTask) -> ClientResult:
        inputs = shared.inputs
        model = received(defense, shared.defense, shared.model, task.client_id)
        attack_state = foe.of_client(shared.attack, shared.defense, task.client_id)
        hyper = inputs.hyper
        rates = hyper.learning_rate, hyper.momentum, hyper.weight_decay
        params = network.layout.unravel(model.params)
        memory = None
        if client.training is not None:
            memory = jax.tree.map(lambda x: x[task.client_id], shared.clients)
        momentum = None
        if work.persist_momentum:
            momentum = network.layout.unravel(shared.momentum[task.client_id])

        stamped = reader
        if attack.triggers is not None and reader.poison is not None:
            changed = reader.poison._replace(triggers=attack.triggers(attack_state))
            stamped = reader._replace(poison=changed)

        def run(params, buffers, optimizer, gradient, poisoned=True, **options):
            return training.train_client(
                reader=stamped if poisoned else reader._replace(poison=None),
                optimizer=optimizer,
                gradient=gradient,
                data=inputs.data,
                params=params,
                buffers=buffers,
                task=task,
                **{"work": work, "momentum": momentum, **options},
            )

        def as_benign(params, buffers):
            optimizer = benign_optimizer(*rates)
            if client.training is None:
                return run(params, buffers, optimizer, gradient)
            own = client.training.gradient(network, reader.normalization)
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
                data=own_data(reader, inputs.data, work.batch_size, context),
            )
            models: list[LocalModel] = []
            done, loss = 0, jnp.float32(0)
            for stage in attack.local_stages(tools):
                at = start if stage.afresh or not models else models[-1]
                params, buffers, loss, *_ = run(
                    at[0],
                    at[1],
                    stage.optimizer,
                    stage.gradient,
                    poisoned=stage.poisoned,
                    work=training.with_epochs(work, stage.epochs),
                    first_epoch=done,
                    momentum=None,
                )
                done += stage.epochs
                models.append(LocalModel(params, buffers))
            chosen = models[-1]
            if attack.result is not None:
                chosen = attack.result(tools, tuple(models))
            return *chosen, loss, memory, momentum

        context = ClientContext(
            task.client_id, task.malicious, task.round, jnp.int32(0)
        )
        start = params, network.buffer_layout.unravel(model.buffers)
        if same:
            trained = as_benign(*start)
        else:
            trained = lax.cond(task.malicious, as_malicious, as_benign, *start)
        local, buffers, loss, memory, momentum = trained
        update = ravel(local) - model.params
        if client.release is not None:
            key = stream(inputs.key, Purpose.CLIENT_RELEASE, task.round, task.client_id)
            benign = task.present & ~task.malicious
            update = jnp.where(benign, client.release(update, key), update)
        kept = ravel(momentum) if work.persist_momentum else ()
        return ClientResult(update, ravel(buffers), loss, memory, kept)

    return train


def round_tools(
    network: Network,
    reader: Reader,
    work: LocalWork,
    inputs: Inputs,
    model: GlobalModel,
    round_index: Array,
    client_id: Array,
) -> RoundTools:
    """What the attackers of a round prepare themselves with, on one client's data."""
    context = ClientContext(client_id, jnp.bool_(True), round_index, jnp.int32(0))
    return RoundTools(
        round=round_index,
        key=stream(inputs.key, Purpose.ATTACK_PREPARATION, round_index),
        model=network.model,
        gradient=training.batch_gradient(network.model, work.microbatch),
        global_params=network.layout.unravel(model.params),
        global_buffers=network.buffer_layout.unravel(model.buffers),
        data=own_data(reader, inputs.data, work.batch_size, context),
    )


def server_root(
    network: Network,
    reader: Reader,
    work: LocalWork,
    request: RootRequest,
    inputs: Inputs,
) -> Root:
    """The server's samples, and local training on them as a client would do it."""
    reader = reader._replace(poison=None)
    gradient = training.batch_gradient(network.model, work.microbatch)
    hyper, data = inputs.hyper, inputs.root
    assert data is not None, "a defence with a RootRequest is given root data"
    own = lambda asked, usual: usual if asked is None else asked
    optimizer = training.sgd(
        hyper.learning_rate,
        own(request.momentum, hyper.momentum),
        own(request.weight_decay, hyper.weight_decay),
    )

    def train(model: GlobalModel, key: Array) -> GlobalModel:
        task = ClientTask(
            client_id=jnp.int32(0),
            malicious=jnp.bool_(False),
            present=jnp.bool_(True),
            round=jnp.int32(0),
            key=key,
        )
        with network.in_precision():
            params, buffers, *_ = training.train_client(
                reader=reader,
                work=work,
                gradient=gradient,
                optimizer=optimizer,
                data=data.train,
                params=network.layout.unravel(model.params),
                buffers=network.buffer_layout.unravel(model.buffers),
                task=task,
            )
        return GlobalModel(ravel(params), ravel(buffers))

    images = normalize(data.images, reader.normalization)
    return Root(images, data.train.labels, train)


def trained_once(root: Root, model: GlobalModel, key: Array) -> Root:
    """Trains from this model with this key now, for all who ask for just that later.

    Inside of a loop the training would be done in every turn.
    """
    trained = root.train(model, key)

    def train(start: GlobalModel, own: Array) -> GlobalModel:
        given = *start, own
        same = all(a is b for a, b in zip(given, (*model, key), strict=True))
        return trained if same else root.train(start, own)

    return root._replace(train=train)
