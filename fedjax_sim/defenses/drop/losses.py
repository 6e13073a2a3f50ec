"""The losses of DROP's distillation.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.3, eqs. 8 to 10. Letters: `B`
batch, `C` classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.core.compiled import compiled
from fedjax_sim.defenses.drop.schedule import Loss


@compiled("kind")
def clone_loss(teacher: Array, student: Array, kind: Loss, temperature: float) -> Array:
    """How far logits f32 [B, C] are apart.

    `l1` is the mean over batch and classes, as coded; `l1_sum` sums over classes, as
    in eq. 10.
    `kl_div` is temperature^2 KL(teacher || student) at that temperature.
    """
    if kind in ("l1", "l1_sum"):
        apart = jnp.abs(teacher - student)
        return apart.mean() if kind == "l1" else apart.sum(-1).mean()
    p = jax.nn.log_softmax(teacher / temperature)
    q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * (jnp.exp(p) * (p - q)).sum(-1).mean()


def gradient_penalty(critic: Callable[[Array], Array], points: Array) -> Array:
    """WGAN-GP (Gulrajani et al. 2017): mean over images of (||grad|| - 1)^2.

    Args:
      critic: images f32 [B, H, W, C] -> map f32 [B, ...], of which the mean counts.
      points: between real and made images.
    """

    def total(x):
        out = critic(x)
        return out.reshape(out.shape[0], -1).mean(1).sum()

    gradients = jax.grad(total)(points)
    return ((_lengths(gradients) - 1.0) ** 2).mean()


def _lengths(images: Array) -> Array:
    flat = images.reshape(images.shape[0], -1)
    return jnp.linalg.norm(flat, axis=1)
