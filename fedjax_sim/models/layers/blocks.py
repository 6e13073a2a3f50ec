"""A few images at a time, so that what is made of them stays in the cache."""

from collections.abc import Callable

import flax.linen as nn
from jax import Array, lax

# Patches of one block; they and what the matmuls make of them stay in the L3 cache.
BLOCK_BYTES = 4 * 2**20
POOLED_BLOCK_BYTES = 8 * 2**20  # without a full-size map beside them


def num_blocks(x: Array, kernel: Array, stride: int, block_bytes: int | None) -> int:
    if block_bytes is None:
        return 1
    batch, height, width, _ = x.shape
    per_image = 4 * height * width * kernel[..., 0].size // stride**2
    fitting = max(1, block_bytes // per_image)
    return next(n for n in range(-(-batch // fitting), batch + 1) if batch % n == 0)


def split(x: Array, blocks: int) -> Array:
    return x.reshape(blocks, -1, *x.shape[1:])


def by_blocks(function, x: Array, blocks: int) -> Array:
    """Applies a function of images [B, ...] to one block after the other."""
    if blocks == 1:
        return function(x)
    y = lax.map(function, split(x, blocks))
    return y.reshape(-1, *y.shape[2:])


def in_groups(
    function: Callable[[nn.Module, Array], Array], size: int
) -> Callable[[nn.Module, Array], Array]:
    """Applies layers to a few images at a time, so that their maps stay in the cache.

    Args:
      function: (module, images [n, ...]) -> [n, ...], of any n, image by image; its
        layers belong to the module and have parameters only. The backward pass
        computes it again.
      size: images at a time, at most: the largest number that divides the batch.

    Returns:
      The same function of all images [B, ...].
    """

    def run(module, x):
        batch = x.shape[0]
        group = max(n for n in range(1, min(size, batch) + 1) if batch % n == 0)
        of_groups = nn.scan(
            lambda module, _, x: (
                None,
                nn.remat(function, prevent_cse=False)(module, x),
            ),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, y = of_groups(module, None, split(x, batch // group))
        return y.reshape(batch, *y.shape[2:])

    return run
