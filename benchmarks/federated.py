"""Clients that train on synthetic images: what several parts measure."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.contracts.client import ClientTask
from fedjax_sim.contracts.model import Lowering, Network
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round import training
from fedjax_sim.round.batches import Reader, TrainData
from fedjax_sim.round.execution import run_clients


def train_data(shape, clients, samples_each, labels=10) -> TrainData:
    """Synthetic images, `samples_each` for every client."""
    height, width, channels = shape
    data = load_synthetic(
        num_train=clients * samples_each,
        num_test=10,
        num_classes=labels,
        height=height,
        width=width,
        channels=channels,
    )
    indices = np.arange(clients * samples_each, dtype=np.int32)
    return jax.device_put(
        TrainData(
            jnp.asarray(data.train_images),
            jnp.asarray(data.train_labels),
            jnp.asarray(indices.reshape(clients, samples_each)),
            jnp.full(clients, samples_each),
            (),
        )
    )


def client_program(
    model, layout, buffers, work, strategy, data, count, gradient=None, memory=None
):
    """One jitted program that trains `count` clients."""
    norm = normalization("half", data.images.shape[-1])
    reader = Reader(Augmentation(), norm, None)
    gradient = gradient or training.batch_gradient(model, work.microbatch)

    def train(shared, task):
        data, params = shared
        local, *_ = training.train_client(
            reader=reader,
            work=work,
            gradient=gradient,
            optimizer=training.sgd(0.01, 0.9, 0.0),
            data=data,
            params=layout.unravel(params),
            buffers=buffers,
            task=task,
            memory=memory,
        )
        return ravel(local) - params

    @jax.jit
    def program(data, params):
        ids = jnp.arange(count)
        tasks = ClientTask(
            client_id=ids,
            malicious=jnp.zeros(count, bool),
            present=jnp.ones(count, bool),
            round=jnp.ones(count, jnp.int32),
            key=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), ids),
        )
        steps = training.num_steps(work, data.counts[ids])
        return run_clients(train, (data, params), tasks, steps, strategy=strategy)

    return program


def network_of(name: str, shape: tuple[int, int, int], lowering: Lowering) -> Network:
    """A model on flat vectors."""
    model = models.build(name, num_classes=10, image_shape=shape, lowering=lowering)
    return Network.of(model, shape, 10, lowering, jax.default_backend())
