"""What a client sees of its data: shuffled, poisoned, augmented batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.contracts.attack import OwnData, Poison
from fedjax_sim.contracts.client import Batch, ClientContext
from fedjax_sim.contracts.dataset import Normalization, Partition
from fedjax_sim.data.augment import Augmentation, augment
from fedjax_sim.data.normalize import normalize
from fedjax_sim.data.triggers import stamp

PyTree = Any


class TrainData(NamedTuple):
    """The training data on the device: stored once, whatever the number of clients."""

    images: Array  # u8 [M, H, W, C]
    labels: Array  # i32 [M]
    indices: Array  # i32 [N, max_m], the samples of each client
    counts: Array  # i32 [N]
    poison_plan: PyTree  # arrays of the attack's `Poison`


class Reader(NamedTuple):
    """How samples become model inputs."""

    augmentation: Augmentation
    normalization: Normalization
    poison: Poison | None


def poisoned_fractions(
    poison: Poison,
    labels: np.ndarray,
    partition: Partition,
    clients: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Returns f64 [m]: what a poison does to the data of m clients.

    The fraction of each client's samples that is stamped or relabelled in a pass over
    them in their own order, in the first epoch of an attack. 0 for a client without
    samples.

    Args:
      poison: of an attack.
      labels: i32 [M].
      partition: the samples of each client.
      clients: i64 [m], their ids.
      batch_size: some attacks poison places of a batch.
    """
    counts, widest = partition.counts[clients], partition.indices.shape[1]
    batches = -(-widest // batch_size)
    samples = np.zeros((len(clients), batches * batch_size), np.int32)
    samples[:, :widest] = partition.indices[clients]
    in_batches = (len(clients), batches, batch_size)
    samples = samples.reshape(in_batches)
    is_real = (np.arange(batches * batch_size) < counts[:, None]).reshape(in_batches)

    plan = jax.tree.map(jnp.asarray, poison.plan)

    def changed(samples, labels, client):
        first = jnp.int32(0)
        context = ClientContext(client, jnp.bool_(True), first + 1, first)
        decision = poison.decide(plan, samples, labels, context)
        return decision.poisoned | (decision.labels != labels)

    per_batch = jax.vmap(changed, (0, 0, None))
    hit = jax.vmap(per_batch)(samples, labels[samples], np.asarray(clients, np.int32))
    return (np.asarray(hit) & is_real).sum((1, 2)) / np.maximum(counts, 1)


def shuffled(key: Array, samples: Array, count: Array) -> Array:
    """Permutes the first `count` of `samples` (i32 [max_m]); the rest stays behind."""
    is_padding = jnp.arange(samples.shape[0]) >= count
    draws = jnp.where(is_padding, 2.0, jax.random.uniform(key, samples.shape))
    return samples[jnp.argsort(draws)]


def own_data(
    reader: Reader, data: TrainData, batch_size: int, context: ClientContext
) -> OwnData:
    """Returns the clean samples of a client, in batches that are not augmented."""
    reader = reader._replace(poison=None, augmentation=Augmentation())
    samples, count = data.indices[context.client_id], data.counts[context.client_id]

    def order(key: Array | None) -> Array:
        return samples if key is None else shuffled(key, samples, count)

    def batch(order: Array, index: Array) -> Batch:
        places = index * batch_size + jnp.arange(batch_size)
        ids = order[jnp.minimum(places, len(order) - 1)]
        # Nothing is drawn from this key: there is no augmentation.
        return read(reader, data, ids, places < count, context, jax.random.key(0))

    return OwnData(-(-count // batch_size), order, batch)


class Epoch(NamedTuple):
    """The samples of an epoch: in batches of B, each with its share of the poison.

    Without poison set apart, `poison` and `share` are 0.
    """

    samples: Array  # i32 [max_m]: clean, poisoned, padding
    clean: Array  # i32 [], how many
    poison: Array  # i32 []
    share: Array  # i32 [], places of a batch that are for poison


def open_epoch(
    reader: Reader,
    data: TrainData,
    samples: Array,
    count: Array,
    batch_size: int,
    context: ClientContext,
    key: Array,
) -> Epoch:
    """Shuffles the first `count` of `samples` (i32 [max_m]) for an epoch."""
    none = jnp.int32(0)
    if reader.poison is None or not reader.poison.batchwise:
        return Epoch(shuffled(key, samples, count), count, none, none)
    real = jnp.arange(samples.shape[0]) < count
    decision = reader.poison.decide(
        data.poison_plan, samples, data.labels[samples], context
    )
    poisoned = decision.poisoned & real
    found = poisoned.sum()
    # With nothing clean there is nothing to set the poison apart from.
    poisoned, found = jax.tree.map(
        lambda x: jnp.where(found < count, x, jnp.zeros_like(x)), (poisoned, found)
    )
    # The released code fails where the share comes out as 0.
    share = jnp.maximum(batch_size * found // jnp.maximum(count, 1), 1)
    draws = jax.random.uniform(key, samples.shape)
    draws = jnp.where(real, draws + poisoned, 2.0)
    return Epoch(
        samples[jnp.argsort(draws)],
        count - found,
        found,
        jnp.where(found > 0, share, 0),
    )


def num_batches(epoch: Epoch, batch_size: int) -> Array:
    """Returns the batches of an epoch, i32 []: as many as the clean samples need."""
    return -(-epoch.clean // (batch_size - epoch.share))


def batch_ids(epoch: Epoch, index: Array, batch_size: int) -> tuple[Array, Array]:
    """Returns the samples of a batch: ids i32 [B], and bool [B], which of them count.

    The last batch of the clean samples may be smaller, as may be the last of the
    poisoned ones, which start again from the first.
    """
    places = jnp.arange(batch_size)
    start = index * (batch_size - epoch.share)
    clean = jnp.clip(epoch.clean - start, 0, batch_size - epoch.share)
    share = jnp.maximum(epoch.share, 1)
    rounds = jnp.maximum(-(-epoch.poison // share), 1)
    first = index % rounds * share
    poison = jnp.clip(epoch.poison - first, 0, epoch.share)
    position = jnp.where(
        places < clean, start + places, epoch.clean + first + places - clean
    )
    last = epoch.samples.shape[0] - 1
    return epoch.samples[jnp.minimum(position, last)], places < clean + poison


def read(
    reader: Reader,
    data: TrainData,
    sample_ids: Array,
    mask: Array,
    context: ClientContext,
    key: Array,
) -> Batch:
    """Gathers, augments, normalises and poisons the samples of a batch.

    Args:
      reader: how to read.
      data: the training data.
      sample_ids: i32 [B].
      mask: bool [B], which of them count.
      context: who trains; decides about poison.
      key: for the augmentation.
    """
    images, labels = data.images[sample_ids], data.labels[sample_ids]
    augmented = augment(key, images, reader.augmentation)
    if reader.poison is None:
        return Batch(normalize(augmented, reader.normalization), labels, mask)
    decision = reader.poison.decide(data.poison_plan, sample_ids, labels, context)
    # A poisoned sample keeps its pixels, so that the trigger stays where it is.
    poisoned = decision.poisoned
    images = jnp.where(poisoned[:, None, None, None], images, augmented)
    images = normalize(images, reader.normalization)
    triggers = reader.poison.triggers
    if triggers is not None:
        chosen = jax.tree.map(lambda part: part[decision.trigger], triggers)
        images = stamp(images, chosen, poisoned)
    return Batch(images, decision.labels, mask)
