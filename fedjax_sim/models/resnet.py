"""ResNet-18 for small images, as the DROP code builds it (He et al. 2016).

A 3x3 stride-1 stem; on RGB images a 3x3 stride-2 max pool follows it, on grey ones
(the EMNIST variant) not. BatchNorm everywhere, or GroupNorm (Wu and He, ECCV 2018) in
32 groups, which keeps no statistics and does not couple the images of a batch; Hsieh et
al. (ICML 2020) put it in BatchNorm's place where clients differ. 11 173 962 parameters
for RGB and ten classes, 11 191 791 for grey and 47.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.models.layers import BatchNorm, Conv, Dense, he_fan_out, max_pool

Norm = Literal["batch", "group"]


def _normalised(
    norm: Norm, name: str, x: Array, *, train: bool, mask: Array | None
) -> Array:
    if norm == "group":
        # PyTorch's epsilon; the variance by its definition, which loses fewer digits.
        return nn.GroupNorm(32, epsilon=1e-5, use_fast_variance=False, name=name)(x)
    return BatchNorm(name=name)(x, train=train, mask=mask)


class BasicBlock(nn.Module):
    """conv-norm-ReLU-conv-norm plus identity or 1x1 projection, then ReLU."""

    features: int
    stride: int
    lowering: Lowering
    norm: Norm = "batch"

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None) -> Array:
        def conv(name, size, stride):
            return Conv(
                self.features,
                size,
                stride,
                padding=size // 2,
                use_bias=False,
                lowering=self.lowering,
                kernel_init=he_fan_out,
                name=name,
            )

        def normalised(name, x):
            return _normalised(self.norm, name, x, train=train, mask=mask)

        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = conv("downsample_0", 1, self.stride)(x)
            shortcut = normalised("downsample_1", shortcut)
        x = conv("conv1", 3, self.stride)(x)
        x = nn.relu(normalised("bn1", x))
        x = normalised("bn2", conv("conv2", 3, 1)(x))
        return nn.relu(x + shortcut)


class ResNet(nn.Module):
    """ResNet of basic blocks; [B, H, W, C] -> logits [B, num_classes].

    `stem="pool"` is the RGB variant, `stem="plain"` the EMNIST variant. With
    `num_classes=None` the output is the 512-d feature, normalised to length one: the
    encoder of Chameleon's contrastive stage.
    """

    num_classes: int | None
    stem: str = "pool"
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    lowering: Lowering = "patches"
    norm: Norm = "batch"

    last_layer: ClassVar[str] = "fc"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        # The grey stem is replaced after the He initialisation: PyTorch's default.
        init = he_fan_out if self.stem == "pool" else None
        x = Conv(
            64,
            3,
            padding=1,
            use_bias=False,
            lowering=self.lowering,
            kernel_init=init,
            name="conv1",
        )(x)
        x = nn.relu(_normalised(self.norm, "bn1", x, train=train, mask=mask))
        if self.stem == "pool":
            x = max_pool(x, 3, 2, 1, native=self.lowering == "native")
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = BasicBlock(
                    64 * 2**stage,
                    2 if stage > 0 and i == 0 else 1,
                    self.lowering,
                    self.norm,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train, mask=mask)
        x = x.mean((1, 2))
        if self.num_classes is None:
            norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
            return x / jnp.maximum(norm, 1e-12)
        return Dense(self.num_classes, name="fc")(x)
