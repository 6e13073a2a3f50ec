"""3x3 convolutions with 16 multiplications for 2x2 outputs instead of 36.

Winograd's minimal filtering F(2x2, 3x3); Lavin and Gray, CVPR 2016, section 4.1. A tile
d of 4x4 inputs and a kernel g give the tile Y of 2x2 outputs by

    Y = A^T [(G g G^T) * (B^T d B)] A,

and the sum over input channels turns the 16 elementwise products into 16 matmuls,
[tiles, C] @ [C, O]. All three transforms are additions. Both gradients take the same
way back, so they need as few multiplications. In float32 the result is within about
1e-6 of the largest output.

A *grid* is a square of arrays, `grid[i][j]`: one array for each place in a tile.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Grid = Any  # tuple[tuple[Array, ...], ...]

# B^T, G and A^T of the paper.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def _transposed(matrix):
    return tuple(zip(*matrix, strict=True))


def _combine(weights, terms):
    """The weighted sum of arrays."""
    parts = [
        term if weight == 1 else weight * term
        for weight, term in zip(weights, terms, strict=True)
        if weight
    ]
    return sum(parts[1:], parts[0])


def _both_sides(matrix, grid: Grid) -> Grid:
    """matrix @ grid @ matrix^T, array by array."""
    columns = [
        [_combine(weights, column) for weights in matrix]
        for column in zip(*grid, strict=True)
    ]
    return tuple(
        tuple(_combine(weights, row) for weights in matrix)
        for row in zip(*columns, strict=True)
    )


@jax.custom_vjp
def _taps(x: Array) -> Grid:
    """The 4x4 places of all tiles, which begin at every second row and column.

    x [B, 2R + 2, 2S + 2, C] -> grid of [B, R, S, C].
    """
    batch, height, width, channels = x.shape
    rows, cols = height // 2 - 1, width // 2 - 1
    return tuple(
        tuple(
            lax.slice(
                x,
                (0, i, j, 0),
                (batch, i + 2 * rows - 1, j + 2 * cols - 1, channels),
                (1, 2, 2, 1),
            )
            for j in range(4)
        )
        for i in range(4)
    )


def _taps_backward(_, grid):
    # Tiles overlap by two: every input is tap i of one tile and i + 2 of its neighbour.
    # Added up per parity of row and column, so that nothing is spread out with zeros.
    def shifted(i, j):
        return jnp.pad(
            grid[i][j], ((0, 0), (i // 2, 1 - i // 2), (j // 2, 1 - j // 2), (0, 0))
        )

    parities = tuple(
        tuple(
            shifted(i, j)
            + shifted(i + 2, j)
            + shifted(i, j + 2)
            + shifted(i + 2, j + 2)
            for j in range(2)
        )
        for i in range(2)
    )
    return (_interleave(parities),)


_taps.defvjp(lambda x: (_taps(x), None), _taps_backward)


def _interleave(grid: Grid) -> Array:
    """A 2x2 grid of [B, R, S, C] to [B, 2R, 2S, C]."""
    rows = [jnp.stack(row, axis=3) for row in grid]
    tiles = jnp.stack(rows, axis=2)
    batch, height, _, width, _, channels = tiles.shape
    return tiles.reshape(batch, 2 * height, 2 * width, channels)


def _kernel_grid(kernel: Array) -> Grid:
    """[3, 3, C, O] -> grid of [C, O]."""
    return _both_sides(_KERNEL, [list(row) for row in kernel])


def _paired(function, *grids: Grid) -> Grid:
    return tuple(tuple(map(function, *rows)) for rows in zip(*grids, strict=True))


@jax.custom_vjp
def _conv_tiles(x: Array, kernel: Array) -> Grid:
    """x [B, 2R + 2, 2S + 2, C], kernel [3, 3, C, O] -> 2x2 grid of [B, R, S, O]."""
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    products = _paired(jnp.matmul, _both_sides(_INPUT, _taps(x)), _kernel_grid(kernel))
    return _both_sides(_OUTPUT, products), (x, kernel)


def _backward(saved, grads):
    x, kernel = saved  # transforming again is cheaper than keeping four times x
    taps, to_input = jax.vjp(_taps, x)
    kernels, to_kernel = jax.vjp(_kernel_grid, kernel)
    back = _both_sides(_transposed(_OUTPUT), grads)

    def weight_gradient(fields, grad):
        fields = fields.reshape(-1, fields.shape[-1])
        grad = grad.reshape(-1, grad.shape[-1])
        # Summing over the rows of the left side is slow on XLA:CPU, and less so this
        # way round, to which the barrier holds it.
        return lax.optimization_barrier(grad.T @ fields).T

    kernel_grad = _paired(weight_gradient, _both_sides(_INPUT, taps), back)
    input_grad = _paired(lambda g, u: g @ u.T, back, kernels)
    (x_grad,) = to_input(_both_sides(_transposed(_INPUT), input_grad))
    return x_grad, to_kernel(kernel_grad)[0]


_conv_tiles.defvjp(_forward, _backward)


def conv(x: Array, kernel: Array, padding: int = 0) -> Array:
    """A 3x3 convolution of stride 1.

    Args:
      x: f32 [B, H, W, C].
      kernel: f32 [3, 3, C, O].
      padding: rows and columns of zeros on each side.

    Returns:
      f32 [B, H + 2 padding - 2, W + 2 padding - 2, O].
    """
    rows, cols = (size + 2 * padding - 2 for size in x.shape[1:3])
    # Whole tiles need even sizes: one row or column more, cut off from the outputs.
    sides = ((0, 0), (padding, padding + rows % 2), (padding, padding + cols % 2))
    whole = jnp.pad(x, (*sides, (0, 0)))
    return _interleave(_conv_tiles(whole, kernel))[:, :rows, :cols]
