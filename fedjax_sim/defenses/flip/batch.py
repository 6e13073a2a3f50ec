"""What FLIP does to one batch of a benign client: search triggers, stamp them, train.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, in the form of DROP's code. Both forms of the epoch
(`simplified`, `coded`) share it; the inversion itself (`trigger_inversion`) is exact in
both.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.contracts.model import Network
from fedjax_sim.data.normalize import denormalize, standardize
from fedjax_sim.defenses.flip.trigger_inversion import (
    Inverted,
    Triggers,
    apply_triggers,
    invert,
)
from fedjax_sim.round.training import batch_gradient

PyTree = Any
RANDOM_PAIR = 0.3  # probability of a random pair
COST, COST_AGAIN = 1e-3, 1e-2
MASK_OF_TWO = 0.1  # where the masks of two triggers at once begin, or above
CORNER, BRIGHT = (5, 14), 0.99  # of the first masks, as coded


class FLIPSettings(NamedTuple):
    """See `fedjax_sim.defenses.flip`."""

    start_round: int
    steps: int
    steps_again: int
    size_min: int
    success: Array | float
    max_size: Array | float
    portion: Array | float
    corner_block: bool


class FLIPClient:
    """What both forms of the epoch do to a batch."""

    def __init__(
        self, settings: FLIPSettings, network: Network, normalization: Normalization
    ):
        self.settings, self.network = settings, network
        self.normalization = normalization
        self.classes = network.num_classes
        self.plain = batch_gradient(network.model, None)
        self.limit = settings.max_size * math.prod(network.image_shape)

    def undefended(self, params, buffers, batch, memory, key):
        del key
        loss, buffers, grads = self.plain(params, buffers, batch)
        return loss, buffers, grads, memory, jnp.bool_(True)

    def train_on(self, params, buffers, batch, images, use, memory, trained=True):
        """The gradient on the batch with `images` (in [0, 1]) where `use`."""
        stamped = standardize(images, self.normalization)
        chosen = use[:, None, None, None]
        batch = batch._replace(images=jnp.where(chosen, stamped, batch.images))
        return *self.plain(params, buffers, batch), memory, jnp.asarray(trained)

    def search(
        self, params, buffers, images, targets, member, valid, start, key, **more
    ) -> Inverted:
        def logits(x):
            x = standardize(x, self.normalization)
            return self.network.model.apply(params, buffers, x, train=False)[0]

        success = self.settings.success
        arguments = logits, images, targets, member, valid, start
        return invert(*arguments, success=success, key=key, **more)

    def universal(
        self, params, buffers, batch, target, key
    ) -> tuple[Inverted, Array, Array, Array]:
        """A trigger for a target class, whatever the source.

        Returns:
          What was found; how many images are to get it f32 []; the batch with it
          everywhere, in [0, 1]; who gets it, bool [B].
        """
        images = denormalize(batch.images, self.normalization)
        others = batch.mask & (batch.labels != target)
        search_key, pick_key = jax.random.split(key)
        start_key, noise_key = jax.random.split(search_key)
        one = Triggers(
            jnp.zeros((1, *self.network.image_shape[:2])),
            jnp.zeros((1, *self.network.image_shape)),
        )
        start = random_triggers(start_key, one)
        if self.settings.corner_block:
            rows, columns = CORNER
            start = start._replace(mask=start.mask.at[:, :rows, :columns].set(BRIGHT))
        found = self.search(
            params,
            buffers,
            images,
            jnp.full_like(batch.labels, target),
            jnp.zeros_like(batch.labels),
            others & (_place(batch.labels, others) < max(self.settings.size_min, 1)),
            start,
            noise_key,
            steps=self.settings.steps,
            cost=COST,
            average=True,
        )
        wanted = jnp.floor(self.settings.portion * others.sum())
        stamped = apply_triggers(images, found.triggers, jnp.zeros_like(batch.labels))
        return found, wanted, stamped, _some(pick_key, others, wanted)

    def eligible(self, batch: Batch) -> tuple[Array, Array]:
        """Images of each class f32 [K], and bool [K] which have enough of them."""
        counts = jax.nn.one_hot(batch.labels, self.classes)
        counts = (counts * batch.mask[:, None]).sum(0)
        return counts, counts > self.settings.size_min

    def of_pair(
        self,
        params,
        buffers,
        batch,
        pair,
        active,
        start,
        keys,
        **more,
    ) -> tuple[Inverted, Array, Array, tuple[Array, Array]]:
        """Triggers between two classes; only from the source if the target is rare.

        Returns:
          What was found; how many images of each class are to get their trigger f32
          []; the batch with triggers everywhere, in [0, 1]; who gets the first and who
          the second, bool [B] each.
        """
        source, target = pair
        counts, eligible = self.eligible(batch)
        both = eligible[target]
        noise_key, pick_key = keys
        images = denormalize(batch.images, self.normalization)
        is_source = batch.mask & (batch.labels == source)
        is_target = batch.mask & (batch.labels == target) & both
        member = jnp.where(is_target, 1, 0)
        least = jnp.where(both, MASK_OF_TWO, 0.0)
        found = self.search(
            params,
            buffers,
            images,
            jnp.where(is_target, source, target),
            member,
            (is_source | is_target) & active,
            start._replace(mask=jnp.maximum(start.mask, least)),
            noise_key,
            average=~both,
            **more,
        )
        smaller = jnp.where(
            both, jnp.minimum(counts[source], counts[target]), counts[source]
        )
        wanted = jnp.floor(self.settings.portion * smaller)
        first, second = jax.random.split(pick_key)
        use = _some(first, is_source, wanted), _some(second, is_target, wanted)
        stamped = apply_triggers(images, found.triggers, member)
        return found, wanted, stamped, use


def by_phase_of(settings, client, warm_up, defended):
    """Plain training before the first round, then the warm-up, then pairs."""

    def of_batch(
        params: PyTree,
        buffers: PyTree,
        batch: Batch,
        memory: PyTree,
        round_: Array,
        key: Array,
    ):
        warming = jnp.where(memory.warm < client.classes, 1, 2)
        case = jnp.where(round_ < settings.start_round, 0, warming)
        return lax.switch(
            case,
            (client.undefended, warm_up, defended),
            params,
            buffers,
            batch,
            memory,
            key,
        )

    return of_batch


def random_pair(key: Array, eligible: Array, classes: int) -> Array:
    """An eligible source and any other class, i32 [2]."""
    source_key, target_key = jax.random.split(key)
    source = jnp.argmax(
        jnp.where(eligible, jax.random.uniform(source_key, (classes,)), -1)
    )
    other = jax.random.uniform(target_key, (classes,))
    target = jnp.argmax(jnp.where(jnp.arange(classes) == source, -1.0, other))
    return jnp.stack([source, target])


def fresh_pairs(eligible: Array, last_source: Array, classes: int) -> Array:
    """bool [K, K]: pairs of an eligible source other than the last one."""
    source = eligible & (jnp.arange(classes) != last_source)
    return source[:, None] & ~jnp.eye(classes, dtype=bool)


def no_triggers(network: Network, *lead: int) -> Triggers:
    """Triggers of size 0, with these leading axes."""
    height, width, channels = network.image_shape
    return Triggers(
        jnp.zeros((*lead, height, width)),
        jnp.zeros((*lead, height, width, channels)),
    )


def random_triggers(key: Array, like: Triggers) -> Triggers:
    """Random triggers to start from."""
    mask_key, pattern_key = jax.random.split(key)
    return Triggers(
        jax.random.uniform(mask_key, like.mask.shape),
        jax.random.uniform(pattern_key, like.pattern.shape),
    )


def _place(labels: Array, mask: Array) -> Array:
    """Returns i32 [B]: how many earlier images of `mask` have the same label."""
    same = (labels[:, None] == labels[None]) & mask[None]
    earlier = jnp.tril(jnp.ones(same.shape, bool), -1)
    return (same & earlier).sum(1)


def _some(key: Array, mask: Array, count: Array) -> Array:
    """Picks `count` of the images of bool [B] at random."""
    draws = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(draws))
    return mask & (rank < count)
