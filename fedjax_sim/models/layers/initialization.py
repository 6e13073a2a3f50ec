"""Initial weights as PyTorch and He et al. draw them."""

import jax
import jax.numpy as jnp
from jax import Array


def torch_uniform(fan_in: int):
    """PyTorch's default for convolutions and linear layers, weight and bias.

    Uniform in [-1/sqrt(fan_in), 1/sqrt(fan_in)], where fan_in counts the inputs of
    one output unit.
    """
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def he_fan_out(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """He et al. 2015 normal initialisation with variance 2 / (k^2 out_channels)."""
    fan_out = shape[0] * shape[1] * shape[-1]
    return jax.random.normal(key, shape, dtype) * (2.0 / fan_out) ** 0.5
