"""FLIP's training of a benign client, for accelerators.

First one universal trigger for each target class (warm-up), then triggers for pairs of
classes. Other than in DROP's code (`coded`) every inversion runs a fixed number of
steps; each pair is chosen by the size of its trigger and not by that size's change; an
inversion warm-starts from the batch before, not from earlier rounds; and a batch
without a pair, or with a trigger that is too large, is trained on as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.contracts.model import Network
from fedjax_sim.defenses.flip.batch import (
    COST,
    COST_AGAIN,
    RANDOM_PAIR,
    FLIPClient,
    FLIPSettings,
    by_phase_of,
    fresh_pairs,
    no_triggers,
    random_pair,
    random_triggers,
)
from fedjax_sim.defenses.flip.trigger_inversion import (
    Triggers,
)


class FLIPMemory(NamedTuple):
    """What a client remembers; with a leading axis N, all of them."""

    sizes: Array  # f32 [K, K], of the trigger from class to class
    warm: Array  # i32 [], classes whose universal trigger is known
    pair: Array  # i32 [2], source and target of the last batch
    again: Array  # bool [], the pair serves a second batch
    triggers: Triggers  # two of them, of the last batch


def simplified_memory(network: Network) -> FLIPMemory:
    """What a client remembers before its first round."""
    classes = network.num_classes
    return FLIPMemory(
        sizes=jnp.zeros((classes, classes)),
        warm=jnp.int32(0),
        pair=jnp.zeros(2, jnp.int32),
        again=jnp.bool_(False),
        triggers=no_triggers(network, 2),
    )


def simplified_epoch(
    settings: FLIPSettings, network: Network, normalization: Normalization
) -> Callable[..., Any]:
    """Returns the gradient of a batch, with `FLIPMemory`; see `train_client`."""
    client = FLIPClient(settings, network, normalization)
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
        fresh = random_triggers(start_key, memory.triggers)
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

    return by_phase_of(settings, client, warm_up, defended)


def _choose(key: Array, memory: FLIPMemory, eligible: Array, classes: int) -> Array:
    """A random eligible pair now and then, else that of the largest trigger."""
    coin_key, draw_key = jax.random.split(key)
    fresh = fresh_pairs(eligible, memory.pair[0], classes)
    best = jnp.argmax(jnp.where(fresh, memory.sizes, -1.0))
    at_random = jax.random.bernoulli(coin_key, RANDOM_PAIR) | ~fresh.any()
    return jnp.where(
        at_random,
        random_pair(draw_key, eligible, classes),
        jnp.stack([best // classes, best % classes]),
    ).astype(jnp.int32)
