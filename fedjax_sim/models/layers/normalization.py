"""Layers that normalise their input."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    Statistics are taken over all axes but the last, over the samples of `mask` only,
    so that a padded batch gives the result of the short one. Training normalises with
    the biased variance and moves the running variance by the unbiased one
    (factor n/(n-1)), with weight 0.1; evaluation uses the running statistics.
    """

    momentum: float = 0.1  # weight of the new value, as in PyTorch
    epsilon: float = 1e-5
    affine: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Normalises x [B, ..., C]; `mask` bool [B] marks real samples."""
        channels, kind = x.shape[-1], x.dtype
        # Sums over a batch are no matter for bfloat16.
        x = x.astype(jnp.promote_types(kind, jnp.float32))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale: Array | float = 1.0
        shift: Array | float = 0.0
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            shift = self.param("bias", nn.initializers.zeros, (channels,))
        if not train:
            gain = scale * lax.rsqrt(var.value + self.epsilon)
            return ((x - mean.value) * gain + shift).astype(kind)
        axes = tuple(range(x.ndim - 1))
        positions = x[0, ..., 0].size
        if mask is None:
            weight = jnp.ones((), x.dtype)
            count = jnp.float32(x.shape[0] * positions)
        else:
            weight = mask.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            count = jnp.maximum(mask.sum(), 1) * jnp.float32(positions)
        batch_mean = (x * weight).sum(axes) / count
        centred = (x - batch_mean) * weight
        batch_var = (centred * centred).sum(axes) / count
        if not self.is_initializing():
            keep = 1.0 - self.momentum
            unbiased = batch_var * count / jnp.maximum(count - 1, 1)
            mean.value = keep * mean.value + self.momentum * batch_mean
            var.value = keep * var.value + self.momentum * unbiased
        gain = scale * lax.rsqrt(batch_var + self.epsilon)
        return ((x - batch_mean) * gain + shift).astype(kind)


@jax.custom_vjp
def standardise(x: Array) -> Array:
    """Zero mean and unit (biased) variance per sample and channel; x [B, H, W, C]."""
    return _standardise_forward(x)[0]


def _standardise_forward(x):
    mean = x.mean((1, 2), keepdims=True)
    var = jnp.square(x - mean).mean((1, 2), keepdims=True)
    rsigma = lax.rsqrt(var + 1e-5)
    return (x - mean) * rsigma, (x, mean, rsigma)


def _standardise_backward(saved, grad):
    x, mean, rsigma = saved
    normal = (x - mean) * rsigma
    along = (grad * normal).mean((1, 2), keepdims=True)
    return ((grad - grad.mean((1, 2), keepdims=True) - normal * along) * rsigma,)


standardise.defvjp(_standardise_forward, _standardise_backward)


class InstanceNorm(nn.Module):
    """Instance normalisation: per sample and channel, eps 1e-5, affine, stateless."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [B, H, W, C] over H and W."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("bias", nn.initializers.zeros, (channels,))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (standardise(wide) * scale + shift).astype(x.dtype)
