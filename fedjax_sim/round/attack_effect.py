"""How long the effect of an attack on the parameters lasts.

Sun et al. (FL-WBC), NeurIPS 2021; Zhu, Roos, Chen (LeadFL), ICML 2023, eq. 1; report
of Guthmann and Tan 2026, eqs. 1 and 2. delta_t is the attacked minus the attack-free
global model. In a round without attackers every local step of a client multiplies it
by I - eta H, with H the Hessian of the loss there, and the server averages.

With `config.evaluation.attack_effect` a run is coupled to its replay without the
attacker: their distance measures delta, and from each attack on the recursion
estimates how it goes on (`round.twin`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.client import GradientFn
from fedjax_sim.core.precision import highest

PyTree = Any


@highest
def after_round(
    delta: Array, hessians: Array, eta: Array | float, weights: Array | None = None
) -> Array:
    """Returns the estimate of delta after a round, f32 [d].

    Args:
      delta: f32 [d], before the round.
      hessians: f32 [n, S, d, d] of n clients in S local steps, or their diagonals
        [n, S, d].
      eta: local learning rate.
      weights: f32 [n], aggregation weights; None weighs all alike.
    """
    times = jnp.multiply if hessians.ndim == 3 else jnp.matmul

    def client(own: Array) -> Array:
        return lax.fori_loop(
            0, own.shape[0], lambda i, x: x - eta * times(own[i], x), delta
        )

    effects = jax.vmap(client)(hessians)
    return effects.mean(0) if weights is None else weights @ effects


def after_step(
    gradient: Callable[[PyTree], PyTree],
    params: PyTree,
    delta: PyTree,
    eta: Array | float,
) -> PyTree:
    """Returns (I - eta H) delta without ever forming the Hessian H.

    H is symmetric, so the product comes from the reverse mode, which every layer has.

    Args:
      gradient: of the loss on the mini-batch, at any parameters.
      params: where the step starts.
      delta: a tree like `params`.
      eta: local learning rate.
    """
    _, product = jax.vjp(gradient, params)
    return jax.tree.map(lambda x, h: x - eta * h, delta, *product(delta))


def with_effect(gradient: GradientFn, eta: Array | float) -> Callable[..., Any]:
    """Returns a gradient that carries delta along as the memory of a client.

    Args:
      gradient: of a batch, differentiable in reverse.
      eta: local learning rate.

    Returns:
      A gradient function with memory; see `round.training.train_client`.
    """

    def with_memory(params, buffers, batch, delta, round_index, key):
        del round_index, key
        loss, moved, grads = gradient(params, buffers, batch)
        at = lambda params: gradient(params, buffers, batch)[2]
        delta = after_step(at, params, delta, eta)
        return loss, moved, grads, delta, jnp.bool_(True)

    return with_memory
