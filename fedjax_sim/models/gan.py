"""Generator and critic of DROP's distillation (Kariyappa et al. 2021, MAZE)."""

from itertools import product

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.models.layers import BatchNorm, Conv, Dense, InstanceNorm, upsample


class Generator(nn.Module):
    """`conv3_gen`: latent [B, z] -> images in [-1, 1], [B, 4 start, 4 start, C].

    With `affine_output=False` it is the generator of data-free model extraction
    (Truong et al. 2021).
    """

    channels: int
    start: int = 8  # a quarter of the side: 8 for 32x32 images, 7 for 28x28
    affine_output: bool = True
    lowering: Lowering = "patches"

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        def norm(name, **options):
            return BatchNorm(name=name, **options)

        x = Dense(128 * self.start**2, name="linear")(z)
        # PyTorch's reshape is channel-major.
        x = x.reshape(-1, 128, self.start, self.start).transpose(0, 2, 3, 1)
        x = norm("bn0")(x, train=train)
        for i, width in enumerate((128, 64)):
            conv = Conv(
                width, 3, padding=1, lowering=self.lowering, name=f"conv{i + 1}"
            )
            x = norm(f"bn{i + 1}")(conv(upsample(x, 2)), train=train)
            x = nn.leaky_relu(x, 0.2)
        conv = Conv(self.channels, 3, padding=1, lowering=self.lowering, name="conv3")
        x = norm("bn3", affine=self.affine_output)(conv(x), train=train)
        return jnp.tanh(x)


class Critic(nn.Module):
    """`conv3_dis`: images [B, H, H, C] -> realness map, [B, 1, 1] for 32x32 images.

    The published strides are 2, 2, 2 for 32x32 and 2, 2, 1 for 28x28 (map 3x3): the
    largest that leave the last convolution its 4x4 window. So they are for others.
    """

    lowering: Lowering = "patches"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        del train  # InstanceNorm keeps no statistics
        strides = _strides(x.shape[1])
        for i, (width, stride) in enumerate(zip((32, 64, 128), strides, strict=True)):
            x = Conv(width, 4, stride, 1, lowering=self.lowering, name=f"conv{i + 1}")(
                x
            )
            x = nn.leaky_relu(InstanceNorm(name=f"norm{i + 1}")(x), 0.2)
        return Conv(1, 4, lowering=self.lowering, name="conv4")(x)[..., 0]


def _strides(side: int) -> tuple[int, ...]:
    """The largest strides of three 4x4 convolutions (padding 1) that leave 4 pixels."""
    for strides in product((2, 1), repeat=3):
        left = side
        for stride in strides:
            left = (left - 2) // stride + 1
        if left >= 4:
            return strides
    raise ValueError(f"images of {side}x{side} pixels are too small for the critic")
