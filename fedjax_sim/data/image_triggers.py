"""Triggers that change a whole image, or paste a picture into it.

Letters: images of H x W pixels and C channels. All sizes of colours are of 8-bit
pixels, 0 to 255; a factory turns them into what the model sees. Nothing is rounded to 8
bits.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.dataset import Normalization, Trigger
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.warping import warping_grid

Shape = tuple[int, int, int]  # (H, W, C)


def affine(
    keep: float | np.ndarray,
    added: np.ndarray,
    of_images: Normalization,
    mask: np.ndarray | None = None,
) -> Trigger:
    """Returns the trigger x -> keep x + added, clipped to [0, 255], x an 8-bit pixel.

    Args:
      keep: share of the image that stays.
      added: [H, W, C].
      of_images: of the images that it is stamped on.
      mask: bool [H, W, C], where; everywhere unless it is given.
    """
    mean, std = of_images
    shape = added.shape
    keep = np.broadcast_to(np.asarray(keep, np.float64), shape)
    value = ((keep - 1) * mean + added / 255) / std
    mask = np.ones(shape, bool) if mask is None else mask
    bounds = (np.broadcast_to((bound - mean) / std, shape) for bound in (0, 1))
    low, high = (jnp.asarray(bound, jnp.float32) for bound in bounds)
    return Trigger(
        jnp.asarray(mask),
        jnp.asarray(np.where(mask, value, 0), jnp.float32),
        jnp.asarray(keep, jnp.float32),
        low,
        high,
    )


def blended(
    shape: Shape,
    normalization: Normalization,
    *,
    rate: float = 0.2,
    path: str = "",
    seed: int = 0,
) -> Trigger:
    """The image and a pattern, (1 - rate) to rate: Chen et al. 2017, arXiv 1712.05526.

    The pattern is a picture of the user's, scaled to the image, or uniform noise.
    """
    _within("blended", "rate", rate, 0, 1)
    pattern = picture(path, shape) if path else _noise(shape, seed)
    return affine(1 - rate, rate * pattern, normalization)


def sig(
    shape: Shape,
    normalization: Normalization,
    *,
    delta: float = 20.0,
    frequency: float = 6.0,
    share: float = 1.0,
) -> Trigger:
    """A sinusoid over the columns: Barni, Kallas, Tondi, ICIP 2019.

    x + delta sin(2 pi j f / W) with the column j from 0. `share` below 1 is
    BackdoorBench's (1 - 0.8) x + 0.8 v with 0.2 here, which darkens the image.
    """
    _within("sig", "share", share, 0, 1)
    wave = signal(shape[1], delta, frequency)[None, :, None]
    keep, added = (1.0, 1.0) if share == 1 else (share, 1 - share)
    return affine(keep, np.broadcast_to(added * wave, shape), normalization)


def signal(width: int, delta: float, frequency: float) -> np.ndarray:
    """Returns what SIG adds to each column, f64 [W]."""
    return delta * np.sin(2 * np.pi * np.arange(width) * frequency / width)


def wanet(
    shape: Shape,
    normalization: Normalization,
    *,
    k: int = 4,
    strength: float = 0.5,
    rescale: float = 1.0,
    seed: int = 0,
) -> Trigger:
    """A smooth warping that depends on the image: Nguyen, Tran, ICLR 2021.

    The field is drawn with a seed. (The noise mode of its training: the attack
    `wanet`.)
    """
    del normalization  # pixels move, and keep their values
    height, width, _ = shape
    if height != width or k < 2 or height < 2:
        raise InputError(
            f"config.attack.trigger = 'wanet(k={k})' is for square images and k of 2 "
            f"or more, the images have {height}x{width} pixels"
        )
    control = np.random.default_rng(seed).uniform(-1, 1, (k, k, 2))
    grid = warping_grid(control, height, width, strength, rescale)
    return Trigger(
        jnp.ones(shape, bool),
        jnp.zeros(shape),
        jnp.ones(shape),
        grid=jnp.asarray(grid),
    )


def random_pixels(
    shape: Shape, normalization: Normalization, *, pixels: int = 16, seed: int = 0
) -> Trigger:
    """So many pixels at random places take random colours, drawn with a seed."""
    height, width, channels = shape
    _within("random", "pixels", pixels, 1, height * width)
    rng = np.random.default_rng(seed)
    mask = np.zeros(height * width, bool)
    mask[rng.choice(height * width, pixels, replace=False)] = True
    mask = np.broadcast_to(mask.reshape(height, width, 1), shape)
    colours = rng.integers(0, 256, (height, width, channels)).astype(float)
    return affine(np.where(mask, 0.0, 1.0), colours * mask, normalization, mask)


def image(
    shape: Shape,
    normalization: Normalization,
    *,
    path: str = "",
    row: int = 0,
    column: int = 0,
    height: int = 0,
    width: int = 0,
    rate: float = 1.0,
) -> Trigger:
    """A picture of the user's, pasted with its upper left corner at (row, column).

    It is scaled to `height` x `width` (0: to the images'); with a `rate` below 1 it is
    mixed with what it covers.
    """
    if not path:
        raise InputError("config.attack.trigger = 'image()' needs a path='FILE'")
    _within("image", "rate", rate, 0, 1)
    height, width = height or shape[0], width or shape[1]
    if row < 0 or column < 0 or row + height > shape[0] or column + width > shape[1]:
        raise InputError(
            f"config.attack.trigger = 'image(...)' covers {height}x{width} pixels from "
            f"row {row} and column {column} on, the images have {shape[0]}x{shape[1]}"
        )
    place = (slice(row, row + height), slice(column, column + width))
    mask, added = np.zeros(shape, bool), np.zeros(shape)
    mask[place] = True
    added[place] = rate * picture(path, (height, width, shape[2]))
    return affine(np.where(mask, 1 - rate, 1.0), added, normalization, mask)


def picture(path: str, shape: Shape) -> np.ndarray:
    """Returns a picture f64 [H, W, C], scaled, grey or in colour as the images are.

    Raises:
      InputError: the file cannot be read, or images of other than 1 or 3 channels.
    """
    from PIL import Image, UnidentifiedImageError  # where images are decoded

    height, width, channels = shape
    if channels not in (1, 3):
        raise InputError(
            f"config.attack.trigger: '{path}' is for images of 1 or 3 channels, not "
            f"{channels}"
        )
    try:
        with Image.open(Path(path).expanduser()) as opened:
            mode = opened.convert("L" if channels == 1 else "RGB")
            scaled = mode.resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "is no picture"
        raise InputError(f"config.attack.trigger: '{path}': {reason}") from None
    return np.asarray(scaled, float).reshape(shape)


def _noise(shape: Shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(float)


def _within(name: str, key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(
            f"config.attack.trigger = '{name}({key}={value})' must lie between {low} "
            f"and {high}"
        )
