"""The convolution layer, and how it is computed."""

import flax.linen as nn
from jax import Array, lax

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.models.layers import taps, winograd
from fedjax_sim.models.layers.blocks import (
    BLOCK_BYTES,
    POOLED_BLOCK_BYTES,
    by_blocks,
    num_blocks,
)
from fedjax_sim.models.layers.initialization import torch_uniform
from fedjax_sim.models.layers.patches import conv_by_patches, fold_stride, pad
from fedjax_sim.models.layers.pooled_convolution import pooled_conv_by_patches
from fedjax_sim.models.layers.pooling import max_pool


def conv_native(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """The same convolution by XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(nn.Module):
    """Square 2-D convolution, [B, H, W, C] -> [B, H', W', features].

    With `pool` (stride 1 only) the maximum of each 2x2 window of its outputs.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    pool: bool = False
    lowering: Lowering = "patches"
    kernel_init: nn.initializers.Initializer | None = None  # None: PyTorch's default
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        default = torch_uniform(self.size**2 * channels)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape)
        if self.lowering == "native":
            x = conv_native(x, kernel, self.stride, self.padding)
            x = max_pool(x, 2, 2, native=True) if self.pool else x
        elif self.pool:
            x = pad(x, self.padding)
            on_cpu = self.lowering != "patches"
            blocks = num_blocks(x, kernel, 1, POOLED_BLOCK_BYTES if on_cpu else None)
            conv = lambda x: pooled_conv_by_patches(x, kernel, on_cpu and channels == 1)
            x = by_blocks(conv, x, blocks)
        else:
            x = self._convolve(x, kernel)
        if self.use_bias:
            x = x + self.param("bias", self.bias_init or default, (self.features,))
        return x

    def _convolve(self, x: Array, kernel: Array) -> Array:
        stride, padding = self.stride, self.padding
        fewer, more = sorted(kernel.shape[2:])
        # Measured for 32 to 512 channels.
        if self.lowering == "winograd" and self.size == 3 and fewer >= 32:
            inside = taps.share_inside(x.shape, 3, stride, padding)
            rows, cols = (-(-(n + 2 * padding - 2) // 2) for n in x.shape[1:3])
            # With fewer tiles than channels Winograd's transforms of the kernel cost
            # more than the matmuls save; on 2x2 maps (0.44 inside) taps need as few
            # multiplications without them, and up to 4x4 (0.69) fewer than patches.
            if stride == 1 and inside > 0.5 and len(x) * rows * cols >= more:
                return winograd.conv(x, kernel, padding)
            if stride > 1 or inside < 0.75:
                return taps.conv(x, kernel, stride, padding)
        if stride > 1 and self.size % stride == 0:
            x, kernel = fold_stride(x, kernel, stride, padding)
            stride, padding = 1, 0
        block = BLOCK_BYTES if self.lowering != "patches" else None
        return conv_by_patches(x, kernel, stride, padding, block)
