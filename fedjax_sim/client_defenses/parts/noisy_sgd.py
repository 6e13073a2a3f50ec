"""SGD whose steps carry noise: what FL-WBC and LDP are made of."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.contracts.client import ClientOptimizer
from fedjax_sim.numerics.leaves import map_weights

PyTree = Any
Reset = Literal["epoch", "round"]


class NoisySGDState(NamedTuple):
    """The state of SGD with noise behind each step, within one round."""

    momentum: PyTree
    last: PyTree  # the gradient of the step before, or what the weights moved by
    begun: Array  # bool [], a step was made since the round began


def noisy_sgd(
    draw: Callable[[Array, PyTree], PyTree],
    keep: Callable[[Array, Array, Array], Array],
    reset: Reset,
    of_steps: bool = False,
) -> ClientOptimizer:
    """SGD that adds eta times noise to weight tensors, behind the momentum.

    The first step after a reset has no noise: there is no gradient before it.

    Args:
      draw: `(key, tree) -> noise` of the shapes of the tree.
      keep: `(gradient, gradient before, noise) -> bool`, entries that get noise.
      reset: what counts as a beginning, each epoch or each round.
      of_steps: `keep` is given what the weights move by instead, and eta times noise.
    """

    def optimizer(
        learning_rate: Array | float,
        momentum: Array | float,
        weight_decay: Array | float,
    ) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> NoisySGDState:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return NoisySGDState(zeros, zeros, jnp.bool_(False))

        def update(updates, state, params=None, *, epoch_start, key, **extra):
            del extra
            fresh = epoch_start if reset == "epoch" else ~state.begun
            buffer = jax.tree.map(
                lambda b, g, w: momentum * b + g + weight_decay * w,
                state.momentum,
                updates,
                params,
            )
            scale: Array | float = 1.0
            moves = updates
            if of_steps:
                scale = learning_rate
                moves = jax.tree.map(lambda b: -learning_rate * b, buffer)
            noise = map_weights(
                lambda g, last, y: jnp.where(~fresh & keep(g, last, scale * y), y, 0.0),
                moves,
                state.last,
                draw(key, updates),
            )
            step = jax.tree.map(lambda b, y: learning_rate * (y - b), buffer, noise)
            last = step if of_steps else updates
            return step, NoisySGDState(buffer, last, jnp.bool_(True))

        return optax.GradientTransformationExtraArgs(init, update)

    return optimizer
