"""FL-WBC: benign clients put noise where the Hessian is small.

Sun, Li, DiValentin, Hassanzadeh, Chen, Li, "FL-WBC: Enhancing Robustness against Model
Poisoning Attacks in Federated Learning from a Client Perspective", NeurIPS 2021, and
its public code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.contracts.defense import ClientOptimizer
from fedjax_sim.core.errors import check_choice, check_range
from fedjax_sim.numerics.leaves import laplace_like, map_weights

PyTree = optax.Params
Reset = Literal["epoch", "round"]
Variant = Literal["code", "paper"]


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

    Raises:
      InputError: an unknown reset.
    """
    check_choice("client_defense", "reset", reset, Reset)

    def optimizer(
        learning_rate: Array, momentum: Array, weight_decay: Array
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
            scale, moves = 1.0, updates
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


def fl_wbc(
    *, scale: float = 0.4, reset: Reset = "epoch", variant: Variant = "code"
) -> ClientOptimizer:
    """Returns FL-WBC as the optimiser of benign clients; it replaces SGD.

    After each step, weights whose gradient changed by no more than the magnitude of a
    Laplace draw get eta times that draw: there the Hessian is small, and the effect
    of an attack would persist.

    Args:
      scale: of the Laplace noise (its standard deviation is sqrt(2) times larger).
      reset: forget the last gradient at each epoch (the code) or at each round.
      variant: `code` compares gradients; `paper` what the weights moved by, last time
        with the noise, which is the same without momentum and noise.

    Raises:
      InputError: an unknown variant or reset, a scale that is not positive.
    """
    check_choice("client_defense", "variant", variant, Variant)
    check_range("client_defense", "scale", scale, 0, open_low=True)
    return noisy_sgd(
        lambda key, tree: laplace_like(key, tree, scale),
        small_change,
        reset,
        of_steps=variant == "paper",
    )


def small_change(gradient: Array, last: Array, noise: Array) -> Array:
    """FL-WBC's mask: where the gradient changed by at most |noise|."""
    return jnp.abs(gradient - last) <= jnp.abs(noise)
