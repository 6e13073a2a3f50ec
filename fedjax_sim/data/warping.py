"""Images that are pulled along a smooth field of small shifts: WaNet's trigger.

Nguyen, Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021;
upsampling and sampling as in PyTorch, with aligned corners.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Of the cubic kernel.
_A = -0.75


def warping_grid(
    control: np.ndarray, height: int, width: int, strength: float, rescale: float
) -> np.ndarray:
    """Returns where each pixel is taken from, f32 [H, W, 2] of (x, y) in [-1, 1].

    Args:
      control: [k, k, 2], drawn uniformly from [-1, 1].
      height, width: of the images, in pixels.
      strength: s, size of the shifts in half pixels or so.
      rescale: of the whole grid, just below 1 to keep it inside.
    """
    scaled = control / np.abs(control).mean()
    rows, columns = _cubic(len(control), height), _cubic(len(control), width)
    field = np.einsum("hi,wj,ijc->hwc", rows, columns, scaled)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    moved = np.stack([x, y], axis=-1) + strength * field / height
    return np.clip(moved * rescale, -1, 1).astype(np.float32)


def _cubic(few: int, many: int) -> np.ndarray:
    """The weights [many, few] of cubic interpolation; the edges are continued."""
    weights = np.zeros((many, few))
    for i, at in enumerate(np.linspace(0, few - 1, many)):
        first = int(np.floor(at))
        for tap in range(-1, 3):
            gap = abs(at - (first + tap))
            near = (_A + 2) * gap**3 - (_A + 3) * gap**2 + 1
            far = _A * gap**3 - 5 * _A * gap**2 + 8 * _A * gap - 4 * _A
            weight = near if gap <= 1 else far if gap < 2 else 0.0
            weights[i, min(max(first + tap, 0), few - 1)] += weight
    return weights


def warp(images: Array, grid: Array) -> Array:
    """Returns images f32 [B, H, W, C] sampled bilinearly at the places of a grid.

    Args:
      images: f32 [B, H, W, C].
      grid: f32 [H, W, 2], or [B, H, W, 2]: (x, y) from -1 to 1, the outermost pixels.
    """
    count, height, width, _ = images.shape
    grid = jnp.broadcast_to(grid, (count, height, width, 2))

    def of_image(image: Array, places: Array) -> Array:
        column = (places[..., 0] + 1) / 2 * (width - 1)
        row = (places[..., 1] + 1) / 2 * (height - 1)
        left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, max(width - 2, 0))
        top = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, max(height - 2, 0))
        right = jnp.minimum(left + 1, width - 1)
        bottom = jnp.minimum(top + 1, height - 1)
        across, down = (column - left)[..., None], (row - top)[..., None]
        upper = (1 - across) * image[top, left] + across * image[top, right]
        lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
        return (1 - down) * upper + down * lower

    return jax.vmap(of_image)(images, grid)
