"""FLIP's training of a benign client: find triggers, stamp them, keep the labels.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, in the form of DROP's code. First one universal trigger
for each target class (warm-up), then triggers for pairs of classes. The inversion is
exact in both forms of what goes around it:

* `simplified_epoch`, for accelerators: every inversion runs a fixed number of steps;
  each pair is chosen by the size of its trigger and not by that size's change; an
  inversion warm-starts from the batch before, not from earlier rounds; and a batch
  without a pair, or with a trigger that is too large, is trained on as it is.
* `coded_epoch`, as DROP's code has it. Where that would end with a NaN, in the relative
  change of a size 0, the change is 0 here.
"""

import math
from collections.abc import Callable
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
# As coded: steps for the first batch of a pair and for the second, where the first
# batch found a trigger and where it did not, for two triggers at once and for one.
CODED_STEPS, CODED_AGAIN = 200, 50
CODED_RETRY_BOTH, CODED_RETRY_ONE = 200, 100
CODED_CANDIDATES = 100  # pairs of the largest change that are looked at
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


class FLIPMemory(NamedTuple):
    """What a client remembers; with a leading axis N, all of them."""

    sizes: Array  # f32 [K, K], of the trigger from class to class
    warm: Array  # i32 [], classes whose universal trigger is known
    pair: Array  # i32 [2], source and target of the last batch
    again: Array  # bool [], the pair serves a second batch
    triggers: Triggers  # two of them, of the last batch


class CodedMemory(NamedTuple):
    """The same, as coded."""

    sizes: Array  # f32 [K, K]
    change: Array  # f32 [K, K], halved running relative change of the sizes
    warm: Array  # i32 []
    pair: Array  # i32 [2]
    succeeded: Array  # bool [], the last batch found its triggers
    round: Array  # i32 [], of the last batch
    step: Array  # i32 [], batches since that round began
    triggers: Triggers  # [K, K, ...] from class to class, zeros: none yet


def first_memory(network: Network, coded: bool) -> FLIPMemory | CodedMemory:
    """What a client remembers before its first round."""
    height, width, channels = network.image_shape
    classes = network.num_classes
    table = jnp.zeros((classes, classes))
    none, no_pair = jnp.int32(0), jnp.zeros(2, jnp.int32)

    def triggers(*lead):
        return Triggers(
            jnp.zeros((*lead, height, width)),
            jnp.zeros((*lead, height, width, channels)),
        )

    if coded:
        every_pair = triggers(classes, classes)
        return CodedMemory(
            table, table, none, no_pair, jnp.bool_(False), none, none, every_pair
        )
    return FLIPMemory(table, none, no_pair, jnp.bool_(False), triggers(2))


class _Client:
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
        start = _fresh(start_key, one)
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


def simplified_epoch(
    settings: FLIPSettings, network: Network, normalization: Normalization
) -> Callable[..., Any]:
    """Returns the gradient of a batch, with `FLIPMemory`; see `train_client`."""
    client = _Client(settings, network, normalization)
    classes, limit = client.classes, client.limit

    def warm_up(params, buffers, batch, memory, key):
        """A universal trigger for the next target class, whatever the source."""
        target = memory.warm
        found, _, stamped, use = client.universal(params, buffers, batch, target, key)
        size = jnp.where(jnp.isfinite(found.size[0]), found.size[0], limit)
        column = jnp.arange(classes) == target
        sizes = jnp.where(column[None], size, memory.sizes)
        use &= found.size[0] <= limit
        memory = memory._replace(sizes=sizes, warm=memory.warm + 1)
        return client.train_on(params, buffers, batch, stamped, use, memory)

    def defended(params, buffers, batch, memory, key):
        pair_key, start_key, noise_key, pick_key = jax.random.split(key, 4)
        _, eligible = client.eligible(batch)
        again = memory.again & eligible[memory.pair[0]]
        pair = jnp.where(
            again, memory.pair, _choose(pair_key, memory, eligible, classes)
        )
        source, target = pair
        both = eligible[target]
        fresh = _fresh(start_key, memory.triggers)
        start = jax.tree.map(
            lambda old, new: jnp.where(again, old, new), memory.triggers, fresh
        )
        found, _, stamped, (first, second) = client.of_pair(
            params,
            buffers,
            batch,
            pair,
            eligible[source],
            start,
            (noise_key, pick_key),
            steps=jnp.where(again, settings.steps_again, settings.steps),
            cost=jnp.where(again, COST_AGAIN, COST),
        )
        usable = found.size <= limit
        use = (first & usable[0] | second & usable[1]) & eligible[source]

        seen = jnp.where(jnp.isfinite(found.size), found.size, limit)
        old = memory.sizes
        sizes = old.at[source, target].set((old[source, target] + seen[0]) / 2)
        sizes = sizes.at[target, source].set(
            jnp.where(both, (old[target, source] + seen[1]) / 2, old[target, source])
        )
        memory = memory._replace(
            sizes=jnp.where(eligible[source], sizes, old),
            pair=pair,
            again=~again & usable.any(),
            triggers=found.triggers,
        )
        return client.train_on(params, buffers, batch, stamped, use, memory)

    return _by_phase(settings, client, warm_up, defended)


def coded_epoch(
    settings: FLIPSettings, network: Network, normalization: Normalization
) -> Callable[..., Any]:
    """Returns the gradient of a batch, with `CodedMemory`; see `train_client`."""
    client = _Client(settings, network, normalization)
    classes, limit = client.classes, client.limit

    def warm_up(params, buffers, batch, memory, key):
        target = memory.warm
        found, wanted, stamped, use = client.universal(
            params, buffers, batch, target, key
        )
        size = _as_coded(found.size[0])
        column = jnp.arange(classes) == target
        sizes = jnp.where(column[None], size, memory.sizes)
        largest = jnp.where(sizes.max() > 0, sizes.max(), 1.0)
        memory = memory._replace(
            sizes=sizes,
            # Until pairs have sizes of their own, their size stands for its change.
            change=sizes / largest,
            warm=memory.warm + 1,
            step=memory.step + 1,
        )
        return client.train_on(params, buffers, batch, stamped, use, memory, wanted > 0)

    def defended(params, buffers, batch, memory, key):
        pair_key, start_key, noise_key, pick_key = jax.random.split(key, 4)
        _, eligible = client.eligible(batch)
        # The counter of batches restarts with a round, the warm-up does not: then the
        # first K batches change the pair every time.
        new_pair = (memory.step < classes) | ((memory.step - classes) % 2 == 0)
        drawn, found_one = _coded_choice(pair_key, memory, eligible, classes)
        pair = jnp.where(new_pair & found_one, drawn, memory.pair)
        source, target = pair
        usable = eligible[source] & (found_one | ~new_pair)
        both = eligible[target]
        retry = ~new_pair & ~memory.succeeded
        again = ~new_pair & memory.succeeded
        fewest = jnp.where(both, CODED_RETRY_BOTH, CODED_RETRY_ONE)
        steps = jnp.where(retry, fewest, jnp.where(again, CODED_AGAIN, CODED_STEPS))

        known = jax.tree.map(
            lambda x: jnp.stack([x[source, target], x[target, source]]), memory.triggers
        )
        seen = known.mask.sum((1, 2)) > 0
        start = jax.tree.map(
            lambda old, new: jnp.where(
                seen.reshape(-1, *[1] * (old.ndim - 1)), old, new
            ),
            known,
            _fresh(start_key, known),
        )
        found, wanted, stamped, (first, second) = client.of_pair(
            params,
            buffers,
            batch,
            pair,
            usable,
            start,
            (noise_key, pick_key),
            steps=jnp.where(usable, steps, 0),
            cost=jnp.where(again, COST_AGAIN, COST),
        )
        # A trigger that was never found is stamped and remembered as nothing at all.
        sizes = _as_coded(found.size)
        too_large = (sizes > limit) & jnp.stack([jnp.bool_(True), both])
        trained = usable & ~too_large.any() & (both | (wanted > 0))

        new = _remember(memory, found, 0, source, target, usable)
        new = _remember(new, found, 1, target, source, usable & both)
        hit = jnp.isfinite(found.size)
        new = new._replace(
            pair=jnp.where(usable, pair, memory.pair),
            succeeded=usable & hit[0] & (hit[1] | ~both),
            step=memory.step + 1,
        )
        use = first | second
        return client.train_on(params, buffers, batch, stamped, use, new, trained)

    by_phase = _by_phase(settings, client, warm_up, defended)

    def of_batch(params, buffers, batch, memory, round_, key):
        step = jnp.where(memory.round == round_, memory.step, 0)
        memory = memory._replace(round=jnp.asarray(round_, jnp.int32), step=step)
        return by_phase(params, buffers, batch, memory, round_, key)

    return of_batch


def _remember(
    memory: CodedMemory, found: Inverted, k: int, a: Array, b: Array, learn: Array
) -> CodedMemory:
    """Notes trigger k from class `a` to class `b`, if `learn`."""
    size, old = _as_coded(found.size)[k], memory.sizes[a, b]
    moved = jnp.where(old > 0, jnp.abs(size - old) / jnp.where(old > 0, old, 1.0), 0.0)

    def put(table: Array, new: Array) -> Array:
        return table.at[a, b].set(jnp.where(learn, new, table[a, b]))

    return memory._replace(
        sizes=put(memory.sizes, size),
        change=put(memory.change, (memory.change[a, b] + moved) / 2),
        triggers=jax.tree.map(
            lambda table, one: put(table, one[k]), memory.triggers, found.triggers
        ),
    )


def _by_phase(settings, client, warm_up, defended):
    """Plain training before the first round, then the warm-up, then pairs."""

    def of_batch(
        params: PyTree,
        buffers: PyTree,
        batch: Batch,
        memory: FLIPMemory | CodedMemory,
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


def _as_coded(size: Array) -> Array:
    """The size of a trigger that was never found is 0 there."""
    return jnp.where(jnp.isfinite(size), size, 0.0)


def _random_pair(key: Array, eligible: Array, classes: int) -> Array:
    """An eligible source and any other class, i32 [2]."""
    source_key, target_key = jax.random.split(key)
    source = jnp.argmax(
        jnp.where(eligible, jax.random.uniform(source_key, (classes,)), -1)
    )
    other = jax.random.uniform(target_key, (classes,))
    target = jnp.argmax(jnp.where(jnp.arange(classes) == source, -1.0, other))
    return jnp.stack([source, target])


def _fresh_pairs(eligible: Array, last_source: Array, classes: int) -> Array:
    """bool [K, K]: pairs of an eligible source other than the last one."""
    source = eligible & (jnp.arange(classes) != last_source)
    return source[:, None] & ~jnp.eye(classes, dtype=bool)


def _choose(key: Array, memory: FLIPMemory, eligible: Array, classes: int) -> Array:
    """A random eligible pair now and then, else that of the largest trigger."""
    coin_key, draw_key = jax.random.split(key)
    fresh = _fresh_pairs(eligible, memory.pair[0], classes)
    best = jnp.argmax(jnp.where(fresh, memory.sizes, -1.0))
    at_random = jax.random.bernoulli(coin_key, RANDOM_PAIR) | ~fresh.any()
    return jnp.where(
        at_random,
        _random_pair(draw_key, eligible, classes),
        jnp.stack([best // classes, best % classes]),
    ).astype(jnp.int32)


def _coded_choice(
    key: Array, memory: CodedMemory, eligible: Array, classes: int
) -> tuple[Array, Array]:
    """The pair of the largest change or a random one, i32 [2]; bool [], is there one?

    Only the `CODED_CANDIDATES` pairs of the largest change are looked at.
    """
    coin_key, draw_key = jax.random.split(key)
    different = ~jnp.eye(classes, dtype=bool)
    change = jnp.where(different, memory.change, -1.0).reshape(-1)
    rank = jnp.argsort(jnp.argsort(-change, stable=True)).reshape(classes, classes)
    fresh = _fresh_pairs(eligible, memory.pair[0], classes)
    fresh &= rank < CODED_CANDIDATES
    best = jnp.argmin(jnp.where(fresh, rank, classes**2))
    at_random = jax.random.bernoulli(coin_key, RANDOM_PAIR)
    pair = jnp.where(
        at_random,
        _random_pair(draw_key, eligible, classes),
        jnp.stack([best // classes, best % classes]),
    )
    return pair.astype(jnp.int32), jnp.where(at_random, eligible.any(), fresh.any())


def _fresh(key: Array, like: Triggers) -> Triggers:
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
