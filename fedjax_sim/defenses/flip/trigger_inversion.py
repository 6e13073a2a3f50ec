"""Finding the smallest trigger that turns images into a target class.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, and its code as DROP's carries it. Mask m and pattern p
of x' = (1 - m) x + m p are found by Adam on cross-entropy plus cost * sum(m), where the
cost follows the success.

Letters: `T` triggers found side by side, `B` images, `C` channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.core.compiled import compiled

_EPSILON = 1e-7
PATIENCE = 10
COST_UP, COST_DOWN = 1.5, 1.5**1.5
NOISE = 0.01


class Triggers(NamedTuple):
    """T triggers in [0, 1]."""

    mask: Array  # f32 [T, H, W]
    pattern: Array  # f32 [T, H, W, C]


class Inverted(NamedTuple):
    """The smallest triggers that succeeded; zeros where none did."""

    triggers: Triggers
    size: Array  # f32 [T], sum of the mask; inf where none succeeded
    loss_drop: Array  # f32 [B], (first - last) / first cross-entropy of each image


class _Search(NamedTuple):
    encoded: Triggers
    optimizer: optax.OptState
    cost: Array  # f32 [T]
    successes: Array  # i32 [T], in a row
    failures: Array  # i32 [T], in a row
    best: Triggers
    size: Array  # f32 [T]
    first_loss: Array  # f32 [B]
    last_loss: Array  # f32 [B]


@compiled()
def apply_triggers(images: Array, triggers: Triggers, member: Array) -> Array:
    """Returns (1 - m) x + m p with trigger `member` (i32 [B]) for each image."""
    mask = triggers.mask[member][..., None]
    return (1.0 - mask) * images + mask * triggers.pattern[member]


@compiled()
def _encode(triggers: Triggers) -> Triggers:
    """To all real numbers."""
    return jax.tree.map(lambda v: jnp.arctanh((v - 0.5) * (2.0 - _EPSILON)), triggers)


@compiled()
def _decode(encoded: Triggers) -> Triggers:
    return jax.tree.map(lambda t: jnp.tanh(t) / (2.0 - _EPSILON) + 0.5, encoded)


def invert(
    logits: Callable[[Array], Array],
    images: Array,
    targets: Array,
    member: Array,
    valid: Array,
    start: Triggers,
    *,
    steps: Array | int,
    cost: float,
    success: Array | float,
    average: Array | bool,
    key: Array | None,
    learning_rate: float = 0.1,
) -> Inverted:
    """Inverts T triggers side by side.

    Whenever one of them gets better, all start again from where they are, with a
    little noise: this shakes the search out of narrow places (as coded).

    Args:
      logits: images in [0, 1], f32 [B, H, W, C] -> f32 [B, classes].
      images: f32 [B, H, W, C] in [0, 1].
      targets: i32 [B], the class each image shall get.
      member: i32 [B], the trigger each image gets.
      valid: bool [B], False: the image does not count.
      start: where the search begins.
      steps: of Adam.
      cost: of the mask's size, to begin with.
      success: share of images in the target class that counts as success.
      average: the mean cross-entropy; otherwise the sum (two triggers at once).
      key: of the noise at restarts; None leaves it out.
      learning_rate: of Adam, betas 0.5 and 0.9.
    """
    count = start.mask.shape[0]
    of_trigger = (member[None] == jnp.arange(count)[:, None]) & valid[None]
    number = jnp.maximum(of_trigger.sum(1), 1)
    adam = optax.adam(learning_rate, b1=0.5, b2=0.9)

    def objective(encoded, cost):
        triggers = _decode(encoded)
        answer = logits(apply_triggers(images, triggers, member))
        losses = optax.softmax_cross_entropy_with_integer_labels(answer, targets)
        losses = jnp.where(valid, losses, 0.0)
        size = triggers.mask.sum((1, 2))
        total = losses.sum() / jnp.where(average, jnp.maximum(valid.sum(), 1), 1)
        hit = (answer.argmax(-1) == targets)[None] & of_trigger
        return total + (cost * size).sum(), (losses, hit.sum(1) / number, size)

    def step(i, search: _Search) -> _Search:
        now = _decode(search.encoded)
        gradient, (losses, rate, size) = jax.grad(objective, has_aux=True)(
            search.encoded, search.cost
        )
        updates, optimizer = adam.update(gradient, search.optimizer)
        encoded = optax.apply_updates(search.encoded, updates)

        succeeded = (rate >= success) & of_trigger.any(1)
        # A restart changes nothing but the rounding of the size: that is no gain.
        better = succeeded & (size < (1.0 - 1e-6) * search.size)
        choose = lambda new, old: jax.tree.map(
            lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b),
            new,
            old,
        )
        again = _encode(_shaken(now, key, i))
        encoded = jax.tree.map(
            lambda a, b: jnp.where(better.any(), a, b), again, encoded
        )
        successes = jnp.where(succeeded, search.successes + 1, 0)
        failures = jnp.where(succeeded, 0, search.failures + 1)
        dearer, cheaper = successes >= PATIENCE, failures >= PATIENCE
        cost = search.cost * jnp.where(dearer, COST_UP, 1.0)
        cost = jnp.where(cheaper, cost / COST_DOWN, cost)
        return _Search(
            encoded=encoded,
            optimizer=optimizer,
            cost=cost,
            successes=jnp.where(dearer, 0, successes),
            failures=jnp.where(cheaper, 0, failures),
            best=choose(now, search.best),
            size=jnp.where(better, size, search.size),
            first_loss=jnp.where(i == 0, losses, search.first_loss),
            last_loss=losses,
        )

    encoded = _encode(start)
    nothing = jnp.zeros(images.shape[0])
    search = _Search(
        encoded=encoded,
        optimizer=adam.init(encoded),
        cost=jnp.full(count, cost, jnp.float32),
        successes=jnp.zeros(count, jnp.int32),
        failures=jnp.zeros(count, jnp.int32),
        best=jax.tree.map(jnp.zeros_like, start),
        size=jnp.full(count, jnp.inf),
        first_loss=nothing,
        last_loss=nothing,
    )
    end = lax.fori_loop(0, steps, step, search)
    first = jnp.where(end.first_loss > 0, end.first_loss, 1.0)
    return Inverted(end.best, end.size, (end.first_loss - end.last_loss) / first)


def _shaken(triggers: Triggers, key: Array | None, step: Array) -> Triggers:
    """Adds uniform noise within [0, 1]; arctanh needs the ends left out."""
    inside = lambda v: jnp.clip(v, 0.0, 1.0)
    if key is None:
        return jax.tree.map(inside, triggers)
    keys = jax.random.split(jax.random.fold_in(key, step))
    return Triggers(
        *(
            inside(v + jax.random.uniform(k, v.shape, minval=-NOISE, maxval=NOISE))
            for v, k in zip(triggers, keys, strict=True)
        )
    )
