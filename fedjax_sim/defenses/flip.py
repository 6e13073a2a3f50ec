"""FLIP: benign clients invert triggers and train the model to ignore them.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, in the form of DROP's code. Benign clients stamp the
smallest trigger they find on some images and keep the true labels; the server averages;
at prediction the model refuses to answer when it is not sure.

The trigger inversion is exact. Around it the form for accelerators is simpler than the
authors' epoch: every inversion runs a fixed number of steps; each class pair is chosen
by the size of its trigger and not by that size's change; an inversion warm-starts from
the batch before, not from earlier rounds; and a batch without a pair, or with a trigger
that is too large, is trained on as it is (`discard=True`: it is skipped, as coded).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.clients.batches import Batch
from fedjax_sim.clients.training import batch_gradient
from fedjax_sim.clients.trigger_inversion import Triggers, apply_triggers, invert
from fedjax_sim.data.normalize import Normalization, denormalize, standardize
from fedjax_sim.defenses.base import (
    ClientTraining,
    Defense,
    FederationSpec,
    GlobalModel,
    pipeline,
)
from fedjax_sim.defenses.checks import check_range
from fedjax_sim.models import Network

PyTree = Any
RANDOM_PAIR = 0.3  # probability of a random pair
COST, COST_AGAIN = 1e-3, 1e-2
MASK_OF_TWO = 0.1  # where the masks of two triggers at once begin, or above


class FLIPMemory(NamedTuple):
    """What a client remembers; with a leading axis N, all of them."""

    sizes: Array  # f32 [K, K], of the trigger from class to class
    warm: Array  # i32 [], classes whose universal trigger is known
    pair: Array  # i32 [2], source and target of the last batch
    again: Array  # bool [], the pair serves a second batch
    triggers: Triggers  # two of them, of the last batch


def flip(
    *,
    start_round: int = 10,
    steps: int = 100,
    steps_again: int = 50,
    size_min: int = 5,
    success: float = 0.85,
    max_size: float = 0.25,
    portion: float = 0.9,
    confidence: float | None = 0.4,
    discard: bool = False,
) -> Defense:
    """Returns FLIP; the defaults are those of CIFAR-10 but for the numbers of steps.

    Args:
      start_round: plain training before it.
      steps, steps_again: of an inversion, for the first and for the second batch of a
        pair. The authors' code takes 600 at first, then 200 and 50.
      size_min: images a class needs in a batch.
      success: share of images a trigger must turn.
      max_size: largest trigger in use, as a share of H W C.
      portion: of a class's images that get the trigger.
      confidence: the model refuses to answer below it; None always answers.
      discard: skip batches without a usable trigger, as coded.

    Raises:
      InputError: for a number outside its range.
    """
    check_range("start_round", start_round, 1)
    check_range("steps", steps, 1)
    check_range("steps_again", steps_again, 1)
    check_range("size_min", size_min, 0)
    for key, value in (
        ("success", success),
        ("max_size", max_size),
        ("portion", portion),
    ):
        check_range(key, value, 0, 1)
    if confidence is not None:
        check_range("confidence", confidence, 0, 1)

    def init(spec: FederationSpec) -> FLIPMemory:
        height, width, channels = spec.network.image_shape
        classes = spec.network.num_classes
        one = FLIPMemory(
            sizes=jnp.zeros((classes, classes)),
            warm=jnp.int32(0),
            pair=jnp.zeros(2, jnp.int32),
            again=jnp.bool_(False),
            triggers=Triggers(
                jnp.zeros((2, height, width)), jnp.zeros((2, height, width, channels))
            ),
        )
        return jax.tree.map(
            lambda x: jnp.zeros((spec.population, *x.shape), x.dtype), one
        )

    def gradient(network: Network, normalization: Normalization):
        plain = batch_gradient(network.model, None)
        classes = network.num_classes
        limit = max_size * network.image_shape[0] * network.image_shape[1]

        def train_on(params, buffers, batch, images, use, memory):
            """The gradient on the batch with `images` (in [0, 1]) where `use`."""
            stamped = standardize(images, normalization)
            chosen = use[:, None, None, None]
            batch = batch._replace(images=jnp.where(chosen, stamped, batch.images))
            trained = use.any() if discard else jnp.bool_(True)
            return *plain(params, buffers, batch), memory, trained

        def undefended(params, buffers, batch, memory, key):
            del key
            loss, buffers, grads = plain(params, buffers, batch)
            return loss, buffers, grads, memory, jnp.bool_(True)

        def search(params, buffers, images, targets, member, valid, start, key, **more):
            def logits(x):
                x = standardize(x, normalization)
                return network.model.apply(params, buffers, x, train=False)[0]

            return invert(
                logits,
                images,
                targets,
                member,
                valid,
                start,
                success=success,
                key=key,
                **more,
            )

        def warm_up(params, buffers, batch, memory, key):
            """A universal trigger for the next target class, whatever the source."""
            images = denormalize(batch.images, normalization)
            target = memory.warm
            others = batch.mask & (batch.labels != target)
            start_key, noise_key, pick_key = jax.random.split(key, 3)
            found = search(
                params,
                buffers,
                images,
                jnp.full_like(batch.labels, target),
                jnp.zeros_like(batch.labels),
                others & (_place(batch.labels, others) < max(size_min, 1)),
                jax.tree.map(lambda x: x[:1], _fresh(start_key, memory.triggers)),
                noise_key,
                steps=steps,
                cost=COST,
                average=True,
            )
            size = jnp.where(jnp.isfinite(found.size[0]), found.size[0], limit)
            column = jnp.arange(classes) == target
            sizes = jnp.where(column[None], size, memory.sizes)
            wanted = jnp.floor(portion * others.sum())
            use = _some(pick_key, others, wanted) & (found.size[0] <= limit)
            stamped = apply_triggers(
                images, found.triggers, jnp.zeros_like(batch.labels)
            )
            memory = memory._replace(sizes=sizes, warm=memory.warm + 1)
            return train_on(params, buffers, batch, stamped, use, memory)

        def defended(params, buffers, batch, memory, key):
            images = denormalize(batch.images, normalization)
            pair_key, start_key, noise_key, pick_key = jax.random.split(key, 4)
            counts = jax.nn.one_hot(batch.labels, classes)
            counts = (counts * batch.mask[:, None]).sum(0)
            eligible = counts > size_min
            again = memory.again & eligible[memory.pair[0]]
            pair = jnp.where(
                again, memory.pair, _choose(pair_key, memory, eligible, classes)
            )
            source, target = pair
            both = eligible[target]
            is_source = batch.mask & (batch.labels == source)
            is_target = batch.mask & (batch.labels == target) & both
            fresh = _fresh(start_key, memory.triggers)
            start = jax.tree.map(
                lambda old, new: jnp.where(again, old, new), memory.triggers, fresh
            )
            least = jnp.where(both, MASK_OF_TWO, 0.0)
            start = start._replace(mask=jnp.maximum(start.mask, least))
            member = jnp.where(is_target, 1, 0)
            found = search(
                params,
                buffers,
                images,
                jnp.where(is_target, source, target),
                member,
                (is_source | is_target) & eligible[source],
                start,
                noise_key,
                steps=jnp.where(again, steps_again, steps),
                cost=jnp.where(again, COST_AGAIN, COST),
                average=~both,
            )
            usable = found.size <= limit
            if discard:
                usable &= usable[0] & (usable[1] | ~both)
            smaller = jnp.where(
                both, jnp.minimum(counts[source], counts[target]), counts[source]
            )
            wanted = jnp.floor(portion * smaller)
            first, second = jax.random.split(pick_key)
            use = _some(first, is_source, wanted) & usable[0]
            use |= _some(second, is_target, wanted) & usable[1]
            use &= eligible[source]

            seen = jnp.where(jnp.isfinite(found.size), found.size, limit)
            old = memory.sizes
            sizes = old.at[source, target].set((old[source, target] + seen[0]) / 2)
            sizes = sizes.at[target, source].set(
                jnp.where(
                    both, (old[target, source] + seen[1]) / 2, old[target, source]
                )
            )
            memory = memory._replace(
                sizes=jnp.where(eligible[source], sizes, old),
                pair=pair,
                again=~again & usable.any(),
                triggers=found.triggers,
            )
            stamped = apply_triggers(images, found.triggers, member)
            return train_on(params, buffers, batch, stamped, use, memory)

        def of_batch(
            params: PyTree,
            buffers: PyTree,
            batch: Batch,
            memory: FLIPMemory,
            round_: Array,
            key: Array,
        ):
            case = jnp.where(
                round_ < start_round, 0, jnp.where(memory.warm < classes, 1, 2)
            )
            return lax.switch(
                case,
                (undefended, warm_up, defended),
                params,
                buffers,
                batch,
                memory,
                key,
            )

        return of_batch

    def predict(
        state: PyTree, model: GlobalModel, network: Network, images: Array
    ) -> Array:
        del state
        logits = network.logits(*model, images)
        sure = jax.nn.softmax(logits).max(-1) > confidence
        return jnp.where(sure, logits.argmax(-1), -1)

    average = pipeline()
    return Defense(
        init=lambda spec: (init(spec), average.init(spec)),
        aggregate=_second(average.aggregate),
        after=lambda state, model, cohort, context: (state, model),
        client_training=ClientTraining(
            memory=lambda state: state[0],
            remember=lambda state, memory: (memory, state[1]),
            gradient=gradient,
        ),
        predict=None if confidence is None else predict,
    )


def _second(aggregate):
    """Lets FedAvg keep its state beside the clients' memory."""

    def with_memory(state, cohort, context):
        memory, own = state
        own, cohort, result = aggregate(own, cohort, context)
        return (memory, own), cohort, result

    return with_memory


def _choose(key: Array, memory: FLIPMemory, eligible: Array, classes: int) -> Array:
    """A random eligible pair now and then, else that of the largest trigger."""
    coin_key, source_key, target_key = jax.random.split(key, 3)
    different = ~jnp.eye(classes, dtype=bool)
    allowed = eligible[:, None] & different
    fresh = allowed & (jnp.arange(classes) != memory.pair[0])[:, None]
    scores = jnp.where(fresh, memory.sizes, -1.0)
    best = jnp.argmax(scores)
    source = jnp.argmax(
        jnp.where(eligible, jax.random.uniform(source_key, (classes,)), -1)
    )
    other = jax.random.uniform(target_key, (classes,))
    target = jnp.argmax(jnp.where(jnp.arange(classes) == source, -1.0, other))
    at_random = jax.random.bernoulli(coin_key, RANDOM_PAIR) | ~fresh.any()
    return jnp.where(
        at_random,
        jnp.stack([source, target]),
        jnp.stack([best // classes, best % classes]),
    ).astype(jnp.int32)


def _fresh(key: Array, like: Triggers) -> Triggers:
    """Random triggers to start from."""
    mask_key, pattern_key = jax.random.split(key)
    return Triggers(
        jax.random.uniform(mask_key, like.mask.shape, minval=MASK_OF_TWO),
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
