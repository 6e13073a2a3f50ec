"""What a data set is, how clients share it, and what is done to its images.

Letters: M training images, T test images, H x W pixels, C channels, N clients, max_m
the samples of the largest client.
"""

from typing import NamedTuple

import jax
import numpy as np


class Dataset(NamedTuple):
    """Images stay 8-bit; normalisation happens inside the jitted step."""

    name: str
    train_images: np.ndarray  # uint8 [M, H, W, C]
    train_labels: np.ndarray  # int32 [M]
    test_images: np.ndarray  # uint8 [T, H, W, C]
    test_labels: np.ndarray  # int32 [T]
    num_classes: int
    train_groups: np.ndarray | None = None  # int32 [M], whose sample it is, if known


class Partition(NamedTuple):
    """Row i lists the samples of client i in the client's own order."""

    indices: np.ndarray  # int32 [N, max_m], 0 beyond counts
    counts: np.ndarray  # int32 [N]


class Normalization(NamedTuple):
    """(x / 255 - mean) / std per channel."""

    mean: np.ndarray  # f32 [C]
    std: np.ndarray  # f32 [C]


class Trigger(NamedTuple):
    """Where `mask` is set, the image takes `value`; a trigger may do more than that.

    Attributes:
      mask: bool [H, W, C].
      value: f32 [H, W, C], 0 outside the mask.
      keep: f32 [H, W, C], the share of the image that stays below the value; None: 0.
      low, high: f32 [H, W, C], between which the result is clipped; None: it is not.
      grid: f32 [H, W, 2], from where each pixel is taken first; see `data.warping`.
    """

    mask: jax.Array
    value: jax.Array
    keep: jax.Array | None = None
    low: jax.Array | None = None
    high: jax.Array | None = None
    grid: jax.Array | None = None
