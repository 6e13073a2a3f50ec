"""Random crop, flip and rotation of 8-bit images, as one gather per image.

Letters: B images of H x W pixels and C channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Augmentation(NamedTuple):
    """Applied in this order; what leaves the image is replaced by 0 (black)."""

    crop_padding: int = 0  # shift by -padding..padding pixels along each axis
    flip: bool = False  # left to right with probability 1/2
    rotation_degrees: float = 0.0  # uniform in [-degrees, degrees], nearest pixel


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    # DROP's code, CIFAR-10 and CINIC-10.
    "drop": Augmentation(crop_padding=4, flip=True, rotation_degrees=15.0),
    # DROP's code, GTSRB: a mirrored traffic sign is another sign.
    "drop_no_flip": Augmentation(crop_padding=4, rotation_degrees=15.0),
    # LeadFL's code, CIFAR-10.
    "crop_flip": Augmentation(crop_padding=4, flip=True),
}


def augment(key: jax.Array, images: jax.Array, augmentation: Augmentation) -> jax.Array:
    """Returns randomly augmented images, uint8 [B, H, W, C]; the key is consumed."""
    if augmentation == Augmentation():
        return images
    crop_key, flip_key, rotation_key = jax.random.split(key, 3)
    batch = images.shape[0]
    padding, limit = augmentation.crop_padding, augmentation.rotation_degrees
    shifts = jax.random.randint(crop_key, (batch, 2), -padding, padding + 1)
    flips = jax.random.bernoulli(flip_key, 0.5 if augmentation.flip else 0.0, (batch,))
    degrees = jax.random.uniform(rotation_key, (batch,), minval=-limit, maxval=limit)
    return transform(images, shifts, flips, degrees)


def transform(
    images: jax.Array, shifts: jax.Array, flips: jax.Array, degrees: jax.Array
) -> jax.Array:
    """Crops, then flips, then rotates.

    The three maps are composed from the last to the first: each output pixel asks
    where it comes from, and one gather fetches it.

    Args:
      images: uint8 [B, H, W, C].
      shifts: int [B, 2]: the crop starts at this (row, column) of the image, outside
        of which all is 0. Cropping at offset o of an image padded by p is o - p.
      flips: bool [B], left to right.
      degrees: f32 [B], counter-clockwise about the centre, nearest pixel, as
        Pillow's `Image.rotate`.

    Returns:
      uint8 [B, H, W, C].
    """
    batch, height, width, channels = images.shape
    rows, columns = jax.vmap(lambda *draws: _origins(height, width, *draws))(
        shifts, flips, degrees
    )
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixels = jnp.where(inside, rows * width + columns, 0).reshape(batch, -1, 1)
    flat = images.reshape(batch, height * width, channels)
    moved = jnp.take_along_axis(flat, pixels, axis=1)
    moved = jnp.where(inside.reshape(batch, -1, 1), moved, 0)
    return moved.reshape(images.shape)


def _origins(
    height: int, width: int, shift: jax.Array, flip: jax.Array, degrees: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns int32 [H, W] source rows and columns, outside the image if empty."""
    # Rotation about the centre of the image; pixel centres lie at +0.5.
    angle = jnp.deg2rad(degrees)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    y = (jnp.arange(height) + 0.5 - height / 2)[:, None]
    x = (jnp.arange(width) + 0.5 - width / 2)[None, :]
    row = jnp.floor(sine * x + cosine * y + height / 2).astype(jnp.int32)
    column = jnp.floor(cosine * x - sine * y + width / 2).astype(jnp.int32)
    # What the rotation takes from outside the cropped image is empty, even where
    # the uncropped one goes on: send it far away.
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    column = jnp.where(flip, width - 1 - column, column)
    row = jnp.where(inside, row + shift[0], -1)
    return row, column + shift[1]
