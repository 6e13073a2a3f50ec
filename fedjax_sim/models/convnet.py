"""FedREDefense's "ConvNet": three blocks of conv-InstanceNorm-ReLU-average pool."""

import flax.linen as nn
from jax import Array

from fedjax_sim.models.layers import Conv, Dense, InstanceNorm, Lowering, avg_pool


class ConvNet(nn.Module):
    """[B, H, W, C] -> logits [B, num_classes]; 320 010 parameters on CIFAR-10.

    Xie, Fang, Gong, ICML 2024, public code. On 28x28 images the first convolution
    pads by 3, so that every block works on 32, 16 and 8 pixels (317 706 parameters).
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    lowering: Lowering = "patches"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        del train, mask  # no running statistics, no coupling between samples
        for i in range(self.depth):
            padding = 3 if i == 0 and x.shape[1] == 28 else 1
            x = Conv(
                self.width,
                3,
                padding=padding,
                lowering=self.lowering,
                name=f"conv{i + 1}",
            )(x)
            x = nn.relu(InstanceNorm(name=f"norm{i + 1}")(x))
            x = avg_pool(x, 2)
        return Dense(self.num_classes, name="linear")(x.reshape(x.shape[0], -1))
