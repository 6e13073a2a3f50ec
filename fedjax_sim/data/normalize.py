"""From 8-bit images to what a model sees, channel by channel."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.core.errors import InputError, check_choice

# name -> (mean, std) of pixels in [0, 1]; a number serves any number of channels.
NORMALIZATIONS: dict[str, tuple[float | tuple, float | tuple]] = {
    "half": (0.5, 0.5),  # range [-1, 1]; DROP's code
    "unit": (0.0, 1.0),  # range [0, 1]
    # FedREDefense's code takes the constants of MNIST for Fashion-MNIST too.
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cinic10": (
        (0.47889522, 0.47227842, 0.43047404),
        (0.24205776, 0.23828046, 0.25874835),
    ),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalization(name: str, channels: int) -> Normalization:
    """Returns the preset `name` for images of `channels` channels."""
    check_choice("data", "normalization", name, NORMALIZATIONS)
    mean, std = (
        np.full(channels, value, np.float32)
        if isinstance(value, float)
        else np.array(value, np.float32)
        for value in NORMALIZATIONS[name]
    )
    if len(mean) != channels:
        raise InputError(
            f"config.data.normalization = '{name}' is for images of {len(mean)} "
            f"channels, the images have {channels}; 'half' and 'unit' serve any number"
        )
    return Normalization(mean, std)


def normalize(
    images: jax.Array | np.ndarray, normalization: Normalization
) -> jax.Array:
    """Returns f32 [..., C] for `images` uint8 [..., C]."""
    return standardize(images.astype(jnp.float32) / 255, normalization)


def standardize(
    pixels: jax.Array | np.ndarray, normalization: Normalization
) -> jax.Array:
    """Returns f32 [..., C] for `pixels` f32 [..., C] in [0, 1]."""
    shape = (1,) * (pixels.ndim - 1) + (-1,)
    mean = jnp.reshape(normalization.mean, shape)
    std = jnp.reshape(normalization.std, shape)
    # Of NumPy arrays this is a constant, also while a program is traced.
    return cast(jax.Array, (pixels - mean) / std)


def denormalize(images: jax.Array, normalization: Normalization) -> jax.Array:
    """Returns pixels in [0, 1], f32 [..., C], of normalised images."""
    return images * normalization.std + normalization.mean
