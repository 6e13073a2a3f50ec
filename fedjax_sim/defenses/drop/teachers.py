"""The teachers of DROP's distillation: mean logits of the surviving clients' models.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.3. Letters: `B` batch, `C`
classes, `n` clients, `m` seeds, `d` parameters, `b` buffer entries.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.model import Network

LOGIT_BOUND = 1000.0


class Ensemble(NamedTuple):
    """Models whose mean logits teach: the first `num_members` of `order`."""

    params: Array  # f32 [n, d]
    buffers: Array  # f32 [n, b]
    order: Array  # i32 [n]
    num_members: Array  # i32 []


def ensemble(params: Array, buffers: Array, member: Array) -> Ensemble:
    """Returns the ensemble of the rows with `member` (bool [n])."""
    return Ensemble(params, buffers, jnp.argsort(~member, stable=True), member.sum())


def teacher_logits(network: Network, dtype: jnp.dtype) -> Callable:
    """Returns `(images, ensemble) -> mean logits f32 [B, C]`.

    One member after the other, so that a member left out costs nothing and memory
    does not grow with the ensemble. Differentiable in the images alone: the backward
    pass runs each member again instead of keeping its activations.
    """

    def one(i: Array, images: Array, members: Ensemble) -> Array:
        row = members.order[i]
        cast = lambda x: x.astype(dtype)
        logits = network.logits(
            cast(members.params[row]), cast(members.buffers[row]), cast(images)
        )
        return logits.astype(jnp.float32)

    @jax.custom_vjp
    def mean(images, members):
        shape = jax.eval_shape(one, 0, images, members)
        zero = jnp.zeros(shape.shape)
        add = lambda i, total: total + one(i, images, members)
        return lax.fori_loop(0, members.num_members, add, zero) / members.num_members

    def forward(images, members):
        return mean(images, members), (images, members)

    def backward(saved, gradient):
        images, members = saved

        def add(i, total):
            _, pull = jax.vjp(lambda x: one(i, x, members), images)
            return total + pull(gradient / members.num_members)[0]

        total = lax.fori_loop(0, members.num_members, add, jnp.zeros_like(images))
        return total, None

    mean.defvjp(forward, backward)
    return mean


def trustworthy_logits(logits: Array) -> Array:
    """Returns bool [n]: members of f32 [n, m, C] with all logits within +-1000."""
    return (jnp.abs(logits) < LOGIT_BOUND).all((1, 2))
