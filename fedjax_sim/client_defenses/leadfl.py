"""LeadFL: benign clients push the Hessian away from what makes attacks persist.

Zhu, Roos, Chen, "LeadFL: Client Self-Defense against Model Poisoning in Federated
Learning", ICML 2023, and its public code; the corrected Hessian estimate is that of
the report of Guthmann and Tan (TUM 2026), eqs. (3) to (6).

An attack's effect on the parameters is multiplied by I - eta H in every benign step,
with H the Hessian and eta the learning rate. LeadFL adds to each SGD step a second
one along the gradient of the norm of I - eta H, where only the diagonal of H is used
and estimated from two successive steps. Written for one call per mini-batch: the
weights of the step before are known from the steps themselves, so neither a history
of weights nor a second gradient is needed.

One local step i on weights W_i with the mini-batch gradient g_i, for one weight tensor;
eta is the learning rate, behind the colon the name in the code:

    Wt = W_i - eta g_i                     report, eq. (4): W_i + `step`
    dW_i = W_i - W_(i-1)                   `last`
    H_i = (W_i - Wt + dW_i) / eta          eq. (6)
    R_i = clip(p / ||p||, q)               eq. (5), p = 1 - eta H_i: `_regulariser`
    W_(i+1) = Wt - eta alpha R_i           eq. (5)

`paper_sign` has the paper's eq. (4), which is -H_i; `halfsq` has R_i = clip(p, q). As
the authors coded it (`code`), with G the h of the step before (`last`):

    v = Wt - W_i - G - eta,  r = v / ||v||  (0 where no weight tensor)
    h = clip(g_i + alpha r, q)              on every tensor: `mixed`
    W_(i+1) = Wt - eta h                    both through the momentum buffer
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.client_defenses.parts.noisy_sgd import Reset
from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import NonNegative, Traced, checked
from fedjax_sim.numerics.leaves import laplace_like, map_weights

PyTree = Any
Variant = Literal["code", "report", "paper_sign", "halfsq"]
Clipping = Literal["elementwise", "none", "noise_norm"]


class LeadFLState(NamedTuple):
    """What a client remembers of its last step, within one round."""

    momentum: PyTree
    last: PyTree  # "code": the regularised gradient; else: the change of the weights
    begun: Array  # bool [], a step was made since the round began


@checked("client_defense")
def leadfl(
    *,
    alpha: Traced[NonNegative] = 0.4,
    clip: Traced[NonNegative] = 0.2,
    variant: Variant = "code",
    clipping: Clipping = "elementwise",
    reset: Reset = "epoch",
) -> ClientSide:
    """Returns LeadFL as the optimiser of benign clients; it replaces SGD.

    It acts on weight tensors (kernels and the scales of norms), each with its own
    norm, and not on the first step after a reset, which is plain SGD.

    Args:
      alpha: strength of the regulariser (0.4 on Fashion-MNIST, 0.25 on CIFAR-10).
      clip: q, bound on each entry of the regularised gradient.
      variant: `code` is what the authors ran and published: the second step repeats
        the mini-batch gradient, clipped, on all tensors, and the estimate uses the
        last gradient where the theory has the last weight change. `report` follows
        the report's eqs. (3) to (6); `paper_sign` has the sign of the paper's eq. (4)
        as printed; `halfsq` takes half the squared norm.
      clipping: of variant `code`: each entry to [-q, q]; none; or the whole gradient
        to the norm of Laplace(0, q) noise of its size (the code's `LeadFLnorm`).
      reset: forget the last step at each epoch (the code) or at each round.

    Raises:
      InputError: an option outside its range, or `clipping` for another variant than
        `code`.
    """
    if variant != "code" and clipping != "elementwise":
        raise InputError(
            f"config.client_defense.clipping = {clipping!r} belongs to variant = "
            f"'code'; allowed with {variant!r}: elementwise"
        )

    def optimizer(
        learning_rate: Array | float,
        momentum: Array | float,
        weight_decay: Array | float,
    ) -> optax.GradientTransformationExtraArgs:
        eta = learning_rate

        def init(params: PyTree) -> LeadFLState:
            zeros = jax.tree.map(jnp.zeros_like, params)
            return LeadFLState(zeros, zeros, jnp.bool_(False))

        def first_stage(gradient, state, params):
            """Plain SGD: the momentum buffer and its step."""
            buffer = jax.tree.map(
                lambda b, g, w: momentum * b + g + weight_decay * w,
                state.momentum,
                gradient,
                params,
            )
            return buffer, jax.tree.map(lambda b: -eta * b, buffer)

        def as_coded(gradient, state, params, key):
            buffer, step = first_stage(gradient, state, params)
            direction = map_weights(
                lambda s, last: _unit(s - last - eta), step, state.last
            )
            mixed = jax.tree.map(lambda g, r: g + alpha * r, gradient, direction)
            mixed = _clip(mixed, clip, clipping, key)
            # The second backward pass of the code: decay at the intermediate weights.
            buffer = jax.tree.map(
                lambda b, h, w, s: momentum * b + h + weight_decay * (w + s),
                buffer,
                mixed,
                params,
                step,
            )
            step = jax.tree.map(lambda s, b: s - eta * b, step, buffer)
            return step, buffer, mixed

        def as_reported(gradient, state, params, key):
            del key
            buffer, step = first_stage(gradient, state, params)
            regularised = map_weights(
                lambda s, last: s - eta * alpha * _regulariser(-s, last, variant, clip),
                step,
                state.last,
                otherwise=lambda s, last: s,
            )
            return regularised, buffer, regularised

        def plain(gradient, state, params, key):
            del key
            buffer, step = first_stage(gradient, state, params)
            return step, buffer, gradient if variant == "code" else step

        def update(updates, state, params=None, *, epoch_start, key, **extra):
            del extra
            fresh = epoch_start if reset == "epoch" else ~state.begun
            regularise = as_coded if variant == "code" else as_reported
            step, buffer, last = jax.lax.cond(
                fresh, plain, regularise, updates, state, params, key
            )
            return step, LeadFLState(buffer, last, jnp.bool_(True))

        return optax.GradientTransformationExtraArgs(init, update)

    return ClientSide(optimizer=optimizer)


def _unit(x: Array) -> Array:
    """x / ||x||, and 0 of nothing."""
    norm = jnp.linalg.norm(x.ravel())
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1.0), 0.0)


def _regulariser(moved: Array, last: Array, variant: Variant, clip: float) -> Array:
    """R of the report's eq. (5) for one tensor.

    Args:
      moved: W_i - Wt, what the plain step takes away.
      last: dW_i = W_i - W_{i-1}.
      variant: which estimate of the Hessian.
      clip: q.
    """
    if variant == "paper_sign":
        raw = -_unit(1.0 + (moved + last))
    else:
        raw = 1.0 - (moved + last)
        raw = raw if variant == "halfsq" else _unit(raw)
    return jnp.clip(raw, -clip, clip)


def _clip(tree: PyTree, bound: float, clipping: Clipping, key: Array) -> PyTree:
    if clipping == "none":
        return tree
    if clipping == "elementwise":
        return jax.tree.map(lambda x: jnp.clip(x, -bound, bound), tree)
    limit = optax.tree.norm(laplace_like(key, tree, bound))
    norm = optax.tree.norm(tree)
    scale = jnp.minimum(1.0, limit / jnp.where(norm > 0, norm, 1.0))
    return jax.tree.map(lambda x: x * scale, tree)


ENTRY = Entry(
    leadfl,
    paper="Zhu, Roos, Chen, ICML 2023",
)
