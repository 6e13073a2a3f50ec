"""Convolutions as a matmul with the shifted copies of the image."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.models.layers import taps
from fedjax_sim.models.layers.blocks import by_blocks, num_blocks, split


def pad(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def extract_patches(x: Array, size: int, stride: int, padding: int) -> Array:
    """Returns the receptive fields of a convolution.

    Args:
      x: f32 [B, H, W, C].
      size, stride, padding: of the square kernel.

    Returns:
      f32 [B, H', W', size*size*C], channels ordered (row, column, input channel).
    """
    batch, height, width, channels = x.shape
    x = pad(x, padding)
    rows, cols = (taps.num_outputs(n, size, stride, padding) for n in (height, width))
    if size == x.shape[1] == x.shape[2]:
        return x.reshape(batch, 1, 1, -1)  # the whole image is the only field
    shifted = [
        lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + stride * (rows - 1) + 1, j + stride * (cols - 1) + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_by_patches(
    x: Array, kernel: Array, stride: int, padding: int, block_bytes: int | None = None
) -> Array:
    """Convolution as matmuls; x [B, H, W, C], kernel [k, k, C, O].

    The backward pass gathers the patches again (cheap) instead of keeping k*k times
    the activation. With `block_bytes` the images are taken in equal blocks whose
    patches are at most so large.
    """
    return _conv_forward(x, kernel, stride, padding, block_bytes)[0]


def _conv_forward(x, kernel, stride, padding, block_bytes):
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def conv(x):
        return extract_patches(x, kernel.shape[0], stride, padding) @ matrix

    blocks = num_blocks(x, kernel, stride, block_bytes)
    return by_blocks(conv, x, blocks), (x, kernel)


def _conv_backward(stride, padding, block_bytes, saved, grad):
    x, kernel = saved
    size, out = kernel.shape[0], kernel.shape[-1]
    matrix = kernel.reshape(-1, out)
    gather = partial(extract_patches, size=size, stride=stride, padding=padding)

    def gradients(x, grad):
        patches = gather(x)
        fields = patches.shape[-1]
        flat_grad, flat_patches = grad.reshape(-1, out), patches.reshape(-1, fields)
        if fields >= 64:
            # A matmul that sums over the rows of its left side runs at half the speed
            # on XLA:CPU; below 64 columns the copy costs more than it saves.
            matrix_grad = lax.optimization_barrier(flat_patches.T) @ flat_grad
        else:
            matrix_grad = flat_patches.T @ flat_grad
        patch_grad = (flat_grad @ matrix.T).reshape(patches.shape)
        (x_grad,) = jax.linear_transpose(gather, x)(patch_grad)
        return matrix_grad, x_grad

    blocks = num_blocks(x, kernel, stride, block_bytes)
    if blocks == 1:
        matrix_grad, x_grad = gradients(x, grad)
        return x_grad, matrix_grad.reshape(kernel.shape)

    def add_block(total, block):
        matrix_grad, x_grad = gradients(*block)
        return total + matrix_grad, x_grad

    parts = split(x, blocks), split(grad, blocks)
    matrix_grad, x_grad = lax.scan(add_block, jnp.zeros_like(matrix), parts)
    return x_grad.reshape(x.shape), matrix_grad.reshape(kernel.shape)


conv_by_patches.defvjp(_conv_forward, _conv_backward)


def fold_stride(
    x: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, Array]:
    """Turns a convolution whose stride divides its size into one of stride 1.

    The pixels of a square of the stride's side become channels of one pixel, so that
    (size / stride)^2 copies of the image make the patches instead of size^2.

    Args:
      x: f32 [B, H, W, C].
      kernel: f32 [k, k, C, O].
      stride: s, divides k.
      padding: rows and columns of zeros on each side.

    Returns:
      Image [B, H'', W'', s*s*C] and kernel [k/s, k/s, s*s*C, O], to be used without
      padding.
    """
    batch, height, width, channels = x.shape
    size, out = kernel.shape[0], kernel.shape[-1]
    rows, cols = (
        taps.num_outputs(n, size, stride, padding) - 1 + size // stride
        for n in (height, width)
    )
    # What lies beyond the last output is cut off.
    low, whole = padding, (0, 0, 0)
    below, beside = rows * stride - height - low, cols * stride - width - low
    x = lax.pad(x, 0.0, (whole, (low, below, 0), (low, beside, 0), whole))
    x = x.reshape(batch, rows, stride, cols, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, -1)
    parts = kernel.reshape(
        size // stride, stride, size // stride, stride, channels, out
    )
    parts = parts.transpose(0, 2, 1, 3, 4, 5)
    return x, parts.reshape(size // stride, size // stride, -1, out)
