"""Backdoor triggers: pixels that replace those of an image, or change all of it.

A trigger lives in normalised space, that is, in what the model sees: a factory
turns 8-bit or [0, 1] pixel values into it with the normalisation of the images.
Letters: images of H x W pixels and C channels, B of them in a batch.
"""

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.dataset import Normalization, Trigger
from fedjax_sim.core.errors import InputError, check_choice, did_you_mean
from fedjax_sim.data import image_triggers
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.data.warping import warp

Shape = tuple[int, int, int]  # (H, W, C)
Position = Literal["top_left", "top_right", "bottom_left"]
Values = Literal["raw", "code"]


def stamp(images: jax.Array, trigger: Trigger, where: jax.Array) -> jax.Array:
    """Stamps `trigger` on the images with `where`.

    Args:
      images: f32 [B, H, W, C], normalised.
      trigger: one for all [H, W, C], or one per image [B, H, W, C].
      where: bool [B].
    """
    chosen = jnp.reshape(where, (-1, 1, 1, 1))
    mask = jnp.broadcast_to(trigger.mask, images.shape)
    value = jnp.broadcast_to(trigger.value, images.shape).astype(images.dtype)
    if trigger.keep is not None:
        shown = images if trigger.grid is None else warp(images, trigger.grid)
        value = trigger.keep * shown + value
    if trigger.low is not None:
        value = jnp.clip(value, trigger.low, trigger.high)
    return jnp.where(chosen & mask, value, images)


def make_trigger(
    text: str, shape: Shape, normalization: Normalization, **options: Any
) -> Trigger:
    """Returns the trigger that a config names.

    Args:
      text: a name of `TRIGGERS`, or a call of it with options such as `sig(delta=30)`.
      shape: of the images.
      normalization: of the images.
      **options: of an attack; those that the trigger has, unless `text` says else.

    Raises:
      InputError: an unknown name or option, or what the images do not allow.
    """
    name, given = parse_trigger(text)
    known = inspect.signature(TRIGGERS[name]).parameters
    own = {key: value for key, value in options.items() if key in known}
    return TRIGGERS[name](shape, normalization, **{**own, **given})


def parse_trigger(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of a trigger, and its options.

    Raises:
      InputError: an unknown name or option, or no call at all.
    """
    name, bracket, _ = text.partition("(")
    check_choice("attack", "trigger", name.strip(), TRIGGERS)
    if not bracket:
        return name, {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        given = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise InputError(
            f"config.attack.trigger = {text!r} must be NAME or NAME(option=value, ...)"
        ) from None
    parameters = list(inspect.signature(TRIGGERS[name.strip()]).parameters.values())
    known = {one.name: one.default for one in parameters[2:]}
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(key, known) if known else "it has none"
            raise InputError(
                f"config.attack.trigger = {text!r}: {key} is not an option of "
                f"{name.strip()}; {hint}"
            )
        wanted = type(known[key])
        allowed = (int, float) if wanted is float else wanted
        if wanted is not type(None) and not isinstance(value, allowed):
            raise InputError(
                f"config.attack.trigger = {text!r}: {key} = {value!r} must be "
                f"{wanted.__name__}"
            )
    return name.strip(), given


def _pixels(
    name: str,
    shape: Shape,
    pixels: Sequence[tuple[int, int]],
    values: np.ndarray,
    channels: slice = slice(None),
) -> Trigger:
    """Returns the trigger that sets (row, column) pixels[k] to values[k] f32 [C]."""
    height, width, _ = shape
    rows, columns = np.array(pixels).T
    if rows.min() < 0 or rows.max() >= height or columns.min() < 0:
        fits = False
    else:
        fits = columns.max() < width
    if not fits:
        raise InputError(
            f"config.attack.trigger = '{name}' sets rows {rows.min()}..{rows.max()} "
            f"and columns {columns.min()}..{columns.max()}, the images have "
            f"{height}x{width} pixels; use larger images or another trigger"
        )
    mask = np.zeros(shape, bool)
    value = np.zeros(shape, np.float32)
    mask[rows, columns, channels] = True
    value[rows, columns] = values
    return Trigger(jnp.asarray(mask), jnp.asarray(np.where(mask, value, 0)))


def _red(name: str, shape: Shape) -> np.ndarray:
    """Returns full red for colour images, white for grey ones, uint8 [C]."""
    channels = shape[2]
    if channels not in (1, 3):
        raise InputError(
            f"config.attack.trigger = '{name}' is for images of 1 or 3 channels, not "
            f"{channels}"
        )
    return np.array([255, 0, 0][:channels], np.uint8)


# ----------------------------------- DROP (Syros et al. 2025), Figure 1 and its code


def _drop(
    name: str,
    pixels: Sequence[tuple[int, int]],
    margin: int,
    shape: Shape,
    normalization: Normalization,
    position: Position,
) -> Trigger:
    height, width, _ = shape
    offsets = {
        "top_left": (0, 0),
        "top_right": (0, width - margin),
        "bottom_left": (height - margin, 0),
    }
    down, right = offsets[position]
    value = np.asarray(normalize(_red(name, shape), normalization))
    moved = [(row + down, column + right) for row, column in pixels]
    return _pixels(name, shape, moved, value)


def one_pixel(
    shape: Shape, normalization: Normalization, *, position: Position = "top_left"
) -> Trigger:
    """One red (or white) pixel near a corner: DROP's code."""
    return _drop("1pixel", [(1, 1)], 3, shape, normalization, position)


def four_pixel(
    shape: Shape,
    normalization: Normalization,
    *,
    position: Position = "top_left",
    pixel: int | None = None,
) -> Trigger:
    """Four red (or white) pixels near a corner: DROP's code; or one `pixel` of them.

    At the other corners the authors' offset of 29 leaves a 32-pixel image (their
    code fails); 4 pixels from the edge the pattern fits.
    """
    pixels = [(1, 1), (2, 2), (3, 3), (1, 3)]
    pixels = pixels if pixel is None else [pixels[pixel]]
    return _drop("4pixel", pixels, 4, shape, normalization, position)


# ----------------------------------- LeadFL (Zhu, Roos, Chen, ICML 2023), its code

_NINE_PIXELS = {
    (3, 23): 1,
    (3, 24): 0,
    (3, 25): 1,
    (4, 24): 1,
    (5, 25): 0,
    (6, 24): 1,
    (7, 23): 1,
    (7, 24): 0,
    (7, 25): 1,
}


def _leadfl(
    name: str,
    pattern: dict[tuple[int, int], int],
    shape: Shape,
    of_images: Normalization,
    values: Values,
) -> Trigger:
    channels = shape[2]
    used = of_images
    if values == "code":
        # The constants of the authors' backdoor library, whatever the images have.
        used = normalization("mnist" if channels == 1 else "cifar10", channels)
    bits = np.array(list(pattern.values()), np.uint8)
    bits = np.repeat(255 * bits[:, None], channels, axis=1)
    return _pixels(name, shape, list(pattern), np.asarray(normalize(bits, used)))


def nine_pixel(
    shape: Shape, normalization: Normalization, *, values: Values = "raw"
) -> Trigger:
    """Six white and three black pixels in rows 3-7, columns 23-25: LeadFL's code.

    `raw`: 0 and 1 in [0, 1], normalised like the image. `code`: normalised with the
    constants of the authors' backdoor library (MNIST's, CIFAR-10's), out of the
    image's range; published accuracies come from it.
    """
    return _leadfl("9pixel", _NINE_PIXELS, shape, normalization, values)


def leadfl_one_pixel(
    shape: Shape, normalization: Normalization, *, values: Values = "raw"
) -> Trigger:
    """One white pixel at row 3, column 23: LeadFL's code; `values` as nine_pixel."""
    return _leadfl("leadfl_1pixel", {(3, 23): 1}, shape, normalization, values)


# ------------------------- the IQR / Clip-Avg article: docs/protocols/iqr.md


def block(
    shape: Shape,
    normalization: Normalization,
    *,
    height: int = 4,
    width: int = 4,
    row: int = 0,
    column: int = 0,
) -> Trigger:
    """A block set to (1.0, 0, 0), or 1.0 for grey, *after* normalisation.

    First listing of the IQR / Clip-Avg article, which does not give size and place; a
    4x4 block in the top-left corner is assumed.
    """
    del normalization  # The values are those of the tensor.
    value = (_red("block", shape) / 255).astype(np.float32)
    pixels = [
        (row + down, column + right) for down in range(height) for right in range(width)
    ]
    return _pixels("block", shape, pixels, value)


# ------------------------- FedREDefense (Xie, Fang, Gong, ICML 2024), its code

_FEDREDEFENSE_PIXELS = [(26, 26), (24, 26), (26, 24), (25, 25)]


def fedredefense_four_pixel(
    shape: Shape, normalization: Normalization, *, pixel: int | None = None
) -> Trigger:
    """Four pixels of channel 0 set to 1 after normalisation: FedREDefense's code.

    `pixel` chooses one of them, in the order of that code's DBA.
    """
    del normalization  # The value is that of the tensor.
    pixels = _FEDREDEFENSE_PIXELS
    pixels = pixels if pixel is None else [pixels[pixel]]
    values = np.ones(shape[2], np.float32)
    return _pixels("fedredefense_4pixel", shape, pixels, values, slice(0, 1))


# The triggers that DBA can divide: name -> factory with the option `pixel`.
FOUR_PIXELS: dict[str, Callable[..., Trigger]] = {
    "4pixel": four_pixel,
    "fedredefense_4pixel": fedredefense_four_pixel,
}


def single_pixels(name: str, shape: Shape, normalization: Normalization) -> Trigger:
    """Returns the pixels of a trigger of `FOUR_PIXELS` one by one.

    The trigger has a leading axis of 4: bool and f32 [4, H, W, C].
    """
    factory = FOUR_PIXELS[name]
    parts = [factory(shape, normalization, pixel=pixel) for pixel in range(4)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


# Every factory is f(shape (H, W, C), normalization, *, <options>) -> Trigger.
TRIGGERS: dict[str, Callable[..., Trigger]] = {
    "1pixel": one_pixel,
    "4pixel": four_pixel,
    "9pixel": nine_pixel,
    "blended": image_triggers.blended,
    "block": block,
    "fedredefense_4pixel": fedredefense_four_pixel,
    "image": image_triggers.image,
    "leadfl_1pixel": leadfl_one_pixel,
    "random": image_triggers.random_pixels,
    "sig": image_triggers.sig,
    "wanet": image_triggers.wanet,
}
