"""A3FL: a trigger that is optimised against the global model, and its unlearning."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.contracts.attack import Attack, AttackSpec, RoundTools
from fedjax_sim.contracts.dataset import Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Traced,
    Width,
    checked,
)
from fedjax_sim.data.triggers import make_trigger, stamp
from fedjax_sim.round.training import sgd

PyTree = Any
Alike = Literal["gradients", "parameters"]

_START = 0.5  # of every pixel of the trigger, after normalisation: the authors' code
_UNLEARNING = 0.01, 0.9, 5e-4  # learning rate, momentum, weight decay: their code


class Pattern(NamedTuple):
    """The trigger, as it is after the last round with attackers."""

    mask: Array  # bool [H, W, C]
    value: Array  # f32 [H, W, C], normalised; only within the mask is it seen


@checked("attack")
def a3fl(
    *,
    trigger_epochs: Count = 200,
    trigger_lr: Traced[Positive] = 0.01,
    balance: Traced[NonNegative] = 0.01,
    num_models: Natural = 1,
    models_every: Count = 1,
    model_epochs: Count = 5,
    alike: Alike = "gradients",
    low: Traced[float] = -2.0,
    high: Traced[float] = 2.0,
    size: Width = 5,
    row: Natural = 2,
    column: Natural = 2,
    dpr: Traced[Fraction] = 0.25,
    victim_class: Natural | None = None,
    target_class: Natural = 7,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """A3FL: attackers adapt their trigger to the global model before they train.

    Zhang, Jia, Chen, Lin, Wu, "A3FL: Adversarially Adaptive Backdoor Attacks to
    Federated Learning", NeurIPS 2023, algorithm 1, with the constants of the authors'
    code. The attacker with the smallest id of a round moves the pixels of the trigger,
    on its own data, by the sign of the gradient of

        CE(f(x'), target) + balance / M sum_a c_a CE(f_a(x'), target),

    x' the stamped images, f the global model and f_a models that unlearn the trigger:
    copies of f trained on x' with the true labels, made anew every `models_every`
    epochs but not in the first. c_a is how much f_a is like f. Then all attackers of
    the round train with that trigger; evaluations stamp it too, and the next round with
    attackers goes on from it. For images of 1 or 3 channels.

    Args:
      trigger_epochs: passes over the data in which the trigger moves.
      trigger_lr: how far every pixel moves with a batch.
      balance: lambda, the weight of the models that unlearn.
      num_models: M of them; 0 leaves the term out.
      models_every: epochs from one set of them to the next.
      model_epochs: passes in which they unlearn.
      alike: c_a, the mean over convolutions (over all tensors, where there is none) of
        the cosine of: `gradients`, the model's last one against the sum of those
        that the trigger has seen (the authors' code); `parameters` (BackFed's).
      low, high: bounds of the pixels, after normalisation. (The authors' exceed what a
        picture can hold.)
      size: of the trigger, a square.
      row, column: of its upper left corner.
      dpr: fraction of the victim class of one client that is poisoned, see `backdoor`.
      victim_class: class to poison; None poisons every class.
      target_class: the label the backdoor asks for.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a trigger outside of the images, `low`
        not below `high`; a defence with several models; see `backdoor`.
    """
    if isinstance(low, float) and isinstance(high, float) and not low < high:
        raise InputError(
            f"config.attack.low = {low} must be below config.attack.high = {high}"
        )
    place = f"block(height={size}, width={size}, row={row}, column={column})"

    def init(spec: AttackSpec) -> Pattern:
        mask = make_trigger(place, spec.image_shape, spec.normalization).mask
        return Pattern(mask, jnp.full(mask.shape, _START, jnp.float32))

    def prepare(state: Pattern, tools: RoundTools) -> Pattern:
        return _search(
            state,
            tools,
            step=partial(moved, lr=trigger_lr, low=low, high=high),
            target=target_class,
            balance=balance,
            epochs=trigger_epochs,
            num_models=num_models,
            models_every=models_every,
            model_epochs=model_epochs,
            alike=alike,
        )

    def triggers(state: Pattern) -> Trigger:
        return Trigger(state.mask[None], state.value[None])

    return backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=place,
        start_round=start_round,
        end_round=end_round,
    )._replace(init=init, prepare=prepare, triggers=triggers)


def moved(
    value: Array,
    gradient: Array,
    *,
    lr: Array | float,
    low: Array | float,
    high: Array | float,
) -> Array:
    """Returns the trigger after a step; the sign of 0 is 0."""
    return jnp.clip(value - lr * jnp.sign(gradient), low, high)


def gradients(
    pattern: Pattern,
    images: Array,
    loss: Callable[[PyTree, Array], Array],
    params: PyTree,
    models: PyTree,
    weights: Array,
    balance: Array | float,
) -> tuple[Array, PyTree]:
    """Returns the gradients of the trigger f32 [H, W, C] and of the global model.

    That of the model is of its own loss alone.

    Args:
      pattern: the trigger.
      images: f32 [B, H, W, C].
      loss: f32 [] of (parameters, stamped images), against the target.
      params: of the global model.
      models: parameters with a leading axis M, of those that unlearn.
      weights: f32 [M], c_a.
      balance: see `a3fl`.
    """

    def total(value: Array, params: PyTree) -> Array:
        where = jnp.ones(len(images), bool)
        shown = stamp(images, Trigger(pattern.mask, value), where)
        own = loss(params, shown)
        if not len(weights):
            return own
        each = lax.map(lambda model: loss(model, shown), models)
        return own + balance * (weights * each).mean()

    return jax.grad(total, argnums=(0, 1))(pattern.value, params)


class _Unlearning(NamedTuple):
    """The models that unlearn the trigger, with a leading axis M."""

    params: PyTree
    weights: Array  # f32 [M]


def _search(
    state: Pattern,
    tools: RoundTools,
    *,
    step: Callable[[Array, Array], Array],
    target: int,
    balance: Array | float,
    epochs: int,
    num_models: int,
    models_every: int,
    model_epochs: int,
    alike: Alike,
) -> Pattern:
    data, model = tools.data, tools.model
    order = data.order(None)

    def to_target(batch, params, images):
        logits, _ = model.apply(
            params, tools.global_buffers, images, train=False, mask=batch.mask
        )
        labels = jnp.full(len(images), target)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.where(batch.mask, losses, 0.0).sum() / batch.mask.sum()

    def unlearned(key: Array, value: Array, seen: PyTree) -> tuple[PyTree, Array]:
        optimizer = sgd(*_UNLEARNING)
        trigger = Trigger(state.mask, value)

        def one(i, carry):
            epoch, index = i // data.batches, i % data.batches
            own = data.order(jax.random.fold_in(key, epoch))
            batch = data.read(own, index)
            shown = stamp(batch.images, trigger, jnp.ones(len(batch.labels), bool))
            params, buffers, inner, _ = carry
            _, buffers, grads = tools.gradient(
                params, buffers, batch._replace(images=shown)
            )
            moves, inner = optimizer.update(grads, inner, params)
            return optax.apply_updates(params, moves), buffers, inner, grads

        start, zeros = tools.global_params, jax.tree.map(jnp.zeros_like, seen)
        carry = start, tools.global_buffers, optimizer.init(start), zeros
        steps = model_epochs * data.batches
        params, _, _, last = lax.fori_loop(0, steps, one, carry)
        if alike == "parameters":
            return params, likeness(params, start)
        return params, likeness(last, seen)

    def epoch(index, carry):
        value, seen, models = carry

        def anew() -> _Unlearning:
            keys = jax.random.split(jax.random.fold_in(tools.key, index), num_models)
            made = lax.map(lambda key: unlearned(key, value, seen), keys)
            return _Unlearning(*made)

        if num_models:
            due = (index > 0) & (index % models_every == 0)
            models = lax.cond(due, anew, lambda: models)

        def one(i, carry):
            value, seen = carry
            batch = data.read(order, i)
            of_value, of_params = gradients(
                Pattern(state.mask, value),
                batch.images,
                partial(to_target, batch),
                tools.global_params,
                models.params,
                models.weights,
                balance,
            )
            return step(value, of_value), jax.tree.map(jnp.add, seen, of_params)

        value, seen = lax.fori_loop(0, data.batches, one, (value, seen))
        return value, seen, models

    copies = lambda x: jnp.broadcast_to(x, (num_models, *x.shape))
    models = _Unlearning(
        jax.tree.map(copies, tools.global_params), jnp.zeros(num_models)
    )
    seen = jax.tree.map(jnp.zeros_like, tools.global_params)
    value, *_ = lax.fori_loop(0, epochs, epoch, (state.value, seen, models))
    return Pattern(state.mask, value)


def likeness(one: PyTree, other: PyTree) -> Array:
    """Returns f32 []: the mean cosine of kernels of convolutions, else of all tensors.

    A tensor of zeros has cosine 0.
    """
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    kernels = [pair for pair in pairs if pair[0].ndim == 4] or pairs

    def cosine(a: Array, b: Array) -> Array:
        lengths = jnp.linalg.norm(a) * jnp.linalg.norm(b)
        return (a * b).sum() / jnp.maximum(lengths, 1e-8)

    return jnp.stack([cosine(a.ravel(), b.ravel()) for a, b in kernels]).mean()


ENTRY = Entry(
    a3fl,
    paper="Zhang et al., NeurIPS 2023",
)
