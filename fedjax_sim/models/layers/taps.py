"""Convolutions as one matmul for each tap of the kernel, without the padding's zeros.

A padded 3x3 kernel on a 2x2 image meets the image in 16 of its 36 products, on a 4x4
image in 100 of 144. Each tap takes the places where it lies inside the image as rows of
one matmul, [places, C] @ [C, O], and adds the result to the outputs there. No patches
are gathered, so a strided convolution's gradient has none to add up either.
"""

from itertools import product
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


def num_outputs(length: int, size: int, stride: int, padding: int) -> int:
    """How many outputs a window of `size` has along an axis of `length` inputs."""
    return (length + 2 * padding - size) // stride + 1


class _Meeting(NamedTuple):
    """Where a tap meets the image, along one axis."""

    inputs: range
    before: int  # outputs it adds nothing to
    after: int


def _meetings(length: int, size: int, stride: int, padding: int) -> list[_Meeting]:
    """For each tap of the kernel; without inputs where it never meets the image."""
    count = num_outputs(length, size, stride, padding)
    found = []
    for tap in range(size):
        first = max(0, -((tap - padding) // stride))
        last = min(count - 1, (length - 1 + padding - tap) // stride)
        start = first * stride + tap - padding
        inputs = range(start, start + stride * (last - first) + 1, stride)
        found.append(_Meeting(inputs, first, count - 1 - last))
    return found


def conv(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """x [B, H, W, C], kernel [k, k, C, O] -> [B, H', W', O]."""
    size, _, channels, out = kernel.shape
    # Split, not indexed: the gradient joins the parts instead of adding k*k kernels.
    matrices = lax.split(kernel.reshape(-1, channels, out), (1,) * size**2)
    taps = product(*(_meetings(n, size, stride, padding) for n in x.shape[1:3]))
    total: Array | float = 0.0
    for matrix, (row, col) in zip(matrices, taps, strict=True):
        if not (row.inputs and col.inputs):
            continue
        places = lax.slice(
            x,
            (0, row.inputs[0], col.inputs[0], 0),
            (len(x), row.inputs[-1] + 1, col.inputs[-1] + 1, channels),
            (1, stride, stride, 1),
        )
        margins = (0, 0), (row.before, row.after), (col.before, col.after), (0, 0)
        total += jnp.pad(places @ matrix[0], margins)
    return jnp.asarray(total)


def share_inside(shape: tuple[int, ...], size: int, stride: int, padding: int) -> float:
    """The share of a convolution's products that meet the image [B, H, W, C]."""
    share = 1.0
    for length in shape[1:3]:
        met = sum(len(m.inputs) for m in _meetings(length, size, stride, padding))
        share *= met / (size * num_outputs(length, size, stride, padding))
    return share
