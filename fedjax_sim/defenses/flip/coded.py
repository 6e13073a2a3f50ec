"""FLIP's training of a benign client, as DROP's code has it.

First one universal trigger for each target class (warm-up), then triggers for pairs of
classes. Where the code would end with a NaN, in the relative change of a size 0, the
change is 0 here.
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
    Inverted,
    Triggers,
)

# As coded: steps for the first batch of a pair and for the second, where the first
# batch found a trigger and where it did not, for two triggers at once and for one.
CODED_STEPS, CODED_AGAIN = 200, 50
CODED_RETRY_BOTH, CODED_RETRY_ONE = 200, 100
CODED_CANDIDATES = 100  # pairs of the largest change that are looked at


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


def coded_memory(network: Network) -> CodedMemory:
    """What a client remembers before its first round."""
    classes = network.num_classes
    table, none = jnp.zeros((classes, classes)), jnp.int32(0)
    return CodedMemory(
        sizes=table,
        change=table,
        warm=none,
        pair=jnp.zeros(2, jnp.int32),
        succeeded=jnp.bool_(False),
        round=none,
        step=none,
        triggers=no_triggers(network, classes, classes),
    )


def coded_epoch(
    settings: FLIPSettings, network: Network, normalization: Normalization
) -> Callable[..., Any]:
    """Returns the gradient of a batch, with `CodedMemory`; see `train_client`."""
    client = FLIPClient(settings, network, normalization)
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
            random_triggers(start_key, known),
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

    by_phase = by_phase_of(settings, client, warm_up, defended)

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


def _as_coded(size: Array) -> Array:
    """The size of a trigger that was never found is 0 there."""
    return jnp.where(jnp.isfinite(size), size, 0.0)


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
    fresh = fresh_pairs(eligible, memory.pair[0], classes)
    fresh &= rank < CODED_CANDIDATES
    best = jnp.argmin(jnp.where(fresh, rank, classes**2))
    at_random = jax.random.bernoulli(coin_key, RANDOM_PAIR)
    pair = jnp.where(
        at_random,
        random_pair(draw_key, eligible, classes),
        jnp.stack([best // classes, best % classes]),
    )
    return pair.astype(jnp.int32), jnp.where(at_random, eligible.any(), fresh.any())
