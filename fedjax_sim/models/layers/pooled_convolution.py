"""A convolution and the 2x2 max pooling behind it, at once."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.models.layers.patches import extract_patches
from fedjax_sim.models.layers.pooling import maximum, shares


def window_patches(x: Array, size: int) -> Array:
    """Receptive fields of a convolution, apart by their place in a 2x2 window.

    Args:
      x: f32 [B, H, W, C], already padded.
      size: of the square kernel; its stride is 1.

    Returns:
      f32 [4*B, H', W', size*size*C], H' = (H - size + 1) // 2: the fields of the upper
      left output of all windows, then of the upper right, lower left and lower right.
      An odd last row or column of outputs has no window.
    """
    batch, height, width, channels = x.shape
    rows, cols = (height - size + 1) // 2, (width - size + 1) // 2
    shifted = {
        (i, j): lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + 2 * rows - 1, j + 2 * cols - 1, channels),
            (1, 2, 2, 1),
        )
        for i in range(size + 1)
        for j in range(size + 1)
    }
    fields = [
        jnp.concatenate(
            [shifted[top + i, left + j] for i in range(size) for j in range(size)],
            axis=-1,
        )
        for top in (0, 1)
        for left in (0, 1)
    ]
    return jnp.concatenate(fields)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pooled_conv_by_patches(x: Array, kernel: Array, joint: bool = False) -> Array:
    """A convolution of stride 1 and the maximum of each 2x2 window of its outputs.

    Args:
      x: f32 [B, H, W, C], already padded.
      kernel: f32 [k, k, C, O].
      joint: the four outputs of a window share one field of (k + 1)^2 inputs. That
        multiplies by zeros too, but a matmul over k*k numbers of a single channel
        starves a CPU.

    Returns:
      f32 [B, (H - k + 1) // 2, (W - k + 1) // 2, O]; ties go to the first element.
    """
    return _pooled_conv_forward(x, kernel, joint)[0]


def _window_kernel(kernel: Array) -> Array:
    """[k, k, C, O] to [k+1, k+1, C, 4*O]: the four outputs of a window side by side."""
    low, high, whole = (0, 1), (1, 0), (0, 0)
    places = [
        jnp.pad(kernel, (rows, cols, whole, whole))
        for rows in (low, high)
        for cols in (low, high)
    ]
    return jnp.concatenate(places, axis=-1)


def _pooled_matmul(kernel, joint):
    """Returns (gather, matrix from kernel, axis): gather(x) @ matrix is all outputs.

    They lie one after the other along the axis: upper left, upper right, lower left,
    lower right of all windows.
    """
    size, out = kernel.shape[0], kernel.shape[-1]
    if joint:
        gather = partial(extract_patches, size=size + 1, stride=2, padding=0)
        return gather, lambda k: _window_kernel(k).reshape(-1, 4 * out), -1
    return partial(window_patches, size=size), lambda k: k.reshape(-1, out), 0


def _pooled_conv_forward(x, kernel, joint):
    gather, to_matrix, axis = _pooled_matmul(kernel, joint)
    outputs = gather(x) @ to_matrix(kernel)
    best, winner = maximum(jnp.split(outputs, 4, axis))
    return best, (x, kernel, winner)


def _pooled_conv_backward(joint, saved, grad):
    x, kernel, winner = saved
    gather, to_matrix, axis = _pooled_matmul(kernel, joint)
    matrix, to_kernel = jax.vjp(to_matrix, kernel)
    patches = gather(x)
    flat_patches = patches.reshape(-1, matrix.shape[0])
    own = jnp.concatenate(shares(winner, grad, 4), axis)
    own = own.reshape(-1, matrix.shape[1])
    if matrix.shape[0] <= matrix.shape[1]:
        matrix_grad = flat_patches.T @ own
    else:
        # Few rows, many columns, then turned: the other way round XLA:CPU is slower,
        # and it would go back to that without the barrier.
        matrix_grad = lax.optimization_barrier(own.T @ flat_patches).T
    patch_grad = (own @ matrix.T).reshape(patches.shape)
    (x_grad,) = jax.linear_transpose(gather, x)(patch_grad)
    return x_grad, *to_kernel(matrix_grad)


pooled_conv_by_patches.defvjp(_pooled_conv_forward, _pooled_conv_backward)
