"""What a client sees of its data: shuffled, poisoned, augmented batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.base import ClientContext, Poison
from fedjax_sim.data.augment import Augmentation, augment
from fedjax_sim.data.normalize import Normalization, normalize
from fedjax_sim.data.triggers import Trigger, stamp

PyTree = Any


class TrainData(NamedTuple):
    """The training data on the device: stored once, whatever the number of clients."""

    images: Array  # u8 [M, H, W, C]
    labels: Array  # i32 [M]
    indices: Array  # i32 [N, max_m], the samples of each client
    counts: Array  # i32 [N]
    poison_plan: PyTree  # arrays of the attack's `Poison`


class Batch(NamedTuple):
    """Samples ready for the model; the real ones come first."""

    images: Array  # f32 [B, H, W, C], normalised
    labels: Array  # i32 [B]
    mask: Array  # bool [B], False = padding


class Reader(NamedTuple):
    """How samples become model inputs."""

    augmentation: Augmentation
    normalization: Normalization
    poison: Poison | None


def shuffled(key: Array, samples: Array, count: Array) -> Array:
    """Permutes the first `count` of `samples` (i32 [max_m]); the rest stays behind."""
    is_padding = jnp.arange(samples.shape[0]) >= count
    draws = jnp.where(is_padding, 2.0, jax.random.uniform(key, samples.shape))
    return samples[jnp.argsort(draws)]


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
        chosen = Trigger(*(part[decision.trigger] for part in triggers))
        images = stamp(images, chosen, poisoned)
    return Batch(images, decision.labels, mask)
