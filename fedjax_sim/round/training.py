"""Local training of one client: SGD over its own data, as one loop.

PyTorch's semantics, which the published experiments use: mean cross-entropy, data
reshuffled every epoch, the last incomplete batch kept, weight decay added to the
gradient of every parameter, momentum buffer starting at the first gradient and
forgotten after the round unless `LocalWork.persist_momentum`.

The number of steps depends on the client's data, so it is the trip count of a loop
and not a shape: under `map` a client costs what its samples cost.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.contracts.client import (
    Batch,
    ClientContext,
    ClientTask,
    GradientFn,
    MemoryGradientFn,
)
from fedjax_sim.contracts.model import Model
from fedjax_sim.round.batches import (
    Reader,
    TrainData,
    batch_ids,
    num_batches,
    open_epoch,
    read,
)

PyTree = Any

# Names of loops whose length the data decide, by which a compiled program is read.
EPOCHS, STEPS, MICROBATCHES = "local_epochs", "local_steps", "microbatches"


class LocalWork(NamedTuple):
    """How much a client trains in a round."""

    batch_size: int
    epochs: int = 1
    steps: int | None = None  # a number of steps instead of epochs
    microbatch: int | None = None  # samples per backward pass; None = the whole batch
    persist_momentum: bool = False  # a client goes on with the buffer of its last round


class ClientResult(NamedTuple):
    """What a client sends back, and what the simulator notes."""

    update: Array  # f32 [d], local minus global parameters
    buffers: Array  # f32 [b], local running statistics
    loss: Array  # f32 [], mean training loss over all samples visited; NaN if none
    memory: PyTree = ()  # what a defence lets the client remember
    momentum: PyTree = ()  # f32 [d], where it persists


def sgd(
    learning_rate: Array | float, momentum: Array | float, weight_decay: Array | float
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and weight decay in PyTorch's form."""
    return optax.with_extra_args_support(
        optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.trace(decay=momentum),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def _momentum_field(state: PyTree) -> str:
    """The name of the momentum buffer in an optimiser's state."""
    return "momentum" if optax.tree.get(state, "trace") is None else "trace"


def lr_factor(schedule: str, round_index: Array, rounds: int) -> Array:
    """Returns the factor f32 [] of the learning rate in a round (from 1).

    `constant`; `step`: a tenth from two thirds of the rounds on (PRoDIGY's code);
    `cosine`: from 1 in the first round towards 0.
    """
    done = (round_index - 1) / rounds
    return {
        "constant": jnp.ones_like(done),
        "step": jnp.where(done >= 2 / 3, 0.1, 1.0),
        "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
    }[schedule]


def num_steps(
    work: LocalWork, count: Array, batches_per_epoch: Array | None = None
) -> Array:
    """Optimiser steps of a client with `count` samples in one round.

    Args:
      work: epochs or steps.
      count: i32, of any shape.
      batches_per_epoch: where it is not ceil(count / batch_size).
    """
    if work.steps is not None:
        return jnp.where(count > 0, work.steps, 0)
    if batches_per_epoch is None:
        batches_per_epoch = -(-count // work.batch_size)
    return work.epochs * batches_per_epoch


def with_epochs(work: LocalWork, epochs: int) -> LocalWork:
    """Returns the work of `epochs` epochs; a number of steps grows in proportion."""
    if work.steps is None:
        return work._replace(epochs=epochs)
    return work._replace(steps=max(1, round(work.steps * epochs / work.epochs)))


def batch_loss(model: Model, params: PyTree, buffers: PyTree, batch: Batch):
    """Summed cross-entropy of the real samples; returns (sum, new buffers)."""
    logits, buffers = model.apply(
        params, buffers, batch.images, train=True, mask=batch.mask
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.where(batch.mask, losses, 0.0).sum(), buffers


def batch_gradient(model: Model, microbatch: int | None) -> GradientFn:
    """Returns the gradient function of a batch.

    `(params, buffers, batch) -> (summed loss, new buffers, gradient of the mean)`.
    With `microbatch` the batch is split, so that the activations of one pass stay in
    the cache, and passes over nothing but padding are left out. Only for models
    without batch statistics: there the split changes the rounding and nothing else.
    """

    def summed(params, buffers, batch):
        return batch_loss(model, params, buffers, batch)

    value_and_grad = jax.value_and_grad(summed, has_aux=True)

    def whole(params, buffers, batch):
        (loss, buffers), grads = value_and_grad(params, buffers, batch)
        return loss, buffers, grads

    def in_parts(params, buffers, batch, microbatch: int):
        # A slice that reaches beyond the end would begin earlier: samples twice.
        missing = -batch.mask.shape[0] % microbatch
        if missing:
            batch = jax.tree.map(
                lambda x: jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]), batch
            )

        def add_part(i, totals):
            part = jax.tree.map(
                lambda x: lax.dynamic_slice_in_dim(x, i * microbatch, microbatch), batch
            )
            (loss, _), grads = value_and_grad(params, buffers, part)
            return jax.tree.map(jnp.add, totals, (loss, grads))

        parts = -(-batch.mask.sum() // microbatch)
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        with jax.named_scope(MICROBATCHES):
            loss, grads = lax.fori_loop(0, parts, add_part, zero)
        return loss, buffers, grads

    def gradient(params, buffers, batch):
        if microbatch and batch.mask.shape[0] > microbatch:
            loss, buffers, grads = in_parts(params, buffers, batch, microbatch)
        else:
            loss, buffers, grads = whole(params, buffers, batch)
        count = jnp.maximum(batch.mask.sum(), 1)
        return loss, buffers, jax.tree.map(lambda g: g / count, grads)

    return gradient


def train_client(
    *,
    reader: Reader,
    work: LocalWork,
    gradient: GradientFn | MemoryGradientFn,
    optimizer: optax.GradientTransformationExtraArgs,
    data: TrainData,
    params: PyTree,
    buffers: PyTree,
    task: ClientTask,
    first_epoch: int = 0,
    memory: PyTree | None = None,
    momentum: PyTree | None = None,
) -> tuple[PyTree, PyTree, Array, PyTree, PyTree | None]:
    """Trains one client from the global model.

    The optimiser is given, besides gradient and parameters, `epoch_start` (bool [],
    first step of an epoch) and `key` (for its own noise), as LeadFL and FL-WBC need.

    Args:
      reader: how samples become batches.
      work: epochs or steps, batch size.
      gradient: of a batch; see `batch_gradient`.
      optimizer: turns gradients into steps; a fresh state every round.
      data: the training data of all clients.
      params, buffers: trees of the global model.
      task: the client.
      first_epoch: the number of the first epoch, where other work went before.
      memory: what the client remembers. With it `gradient` is a `MemoryGradientFn`.
      momentum: tree of the buffer to begin with; None is a fresh one.

    Returns:
      (local parameters, local buffers, mean training loss, memory, and the momentum
      buffer if one was given).
    """
    samples = data.indices[task.client_id]
    count = jnp.where(task.present, data.counts[task.client_id], 0)

    def context(epoch):
        return ClientContext(task.client_id, task.malicious, task.round, epoch)

    def shuffle(key, epoch):
        return open_epoch(
            reader, data, samples, count, work.batch_size, context(epoch), key
        )

    # All epochs have as many batches. Nothing comes of this order, whose key is none's.
    unused = jax.random.fold_in(task.key, 2**32 - 1)
    batches = num_batches(shuffle(unused, first_epoch), work.batch_size)
    total = num_steps(work, count, batches)

    def epoch(index, carry):
        number = first_epoch + index
        order_key, step_key = jax.random.split(jax.random.fold_in(task.key, number))
        order = shuffle(order_key, number)

        def step(i, carry):
            params, buffers, state, loss, seen, memory = carry
            batch_key = jax.random.fold_in(step_key, i)
            read_key, noise_key = jax.random.split(batch_key)
            ids, mask = batch_ids(order, i, work.batch_size)
            batch = read(reader, data, ids, mask, context(number), read_key)
            advance = lambda grads, key: optimizer.update(
                grads, state, params, epoch_start=i == 0, key=key
            )
            if memory is None:
                plain = cast(GradientFn, gradient)
                total, buffers, grads = plain(params, buffers, batch)
                updates, state = advance(grads, noise_key)
                new = optax.apply_updates(params, updates)
            else:
                # The optimiser may split its key, and split(key)[1] is fold_in(key, 1).
                own_key = jax.random.fold_in(noise_key, 1)
                noise_key = jax.random.fold_in(batch_key, 2)
                remembering = cast(MemoryGradientFn, gradient)
                total, moved, grads, memory, trained = remembering(
                    params, buffers, batch, memory, task.round, own_key
                )
                updates, changed = advance(grads, noise_key)
                new, buffers, state = jax.tree.map(
                    lambda a, b: jnp.where(trained, a, b),
                    (optax.apply_updates(params, updates), moved, changed),
                    (params, buffers, state),
                )
            return new, buffers, state, loss + total, seen + mask.sum(), memory

        count = jnp.minimum(batches, total - index * batches)
        with jax.named_scope(STEPS):
            return lax.fori_loop(0, count, step, carry)

    state = optimizer.init(params)
    if momentum is not None:
        field = _momentum_field(state)
        state = optax.tree.set(state, **{field: momentum})
    carry = (
        params,
        buffers,
        state,
        jnp.float32(0),
        jnp.int32(0),
        memory,
    )
    epochs = -(-total // jnp.maximum(batches, 1))
    with jax.named_scope(EPOCHS):
        carry = lax.fori_loop(0, epochs, epoch, carry)
    params, buffers, state, loss, seen, memory = carry
    if momentum is not None:
        momentum = optax.tree.get(state, field)
    return params, buffers, loss / seen, memory, momentum
