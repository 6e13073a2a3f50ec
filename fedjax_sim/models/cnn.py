"""The small convolutional networks of FedREDefense, PoisonedFL and LeadFL."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.models.layers import BatchNorm, Conv, Dense, max_pool


class TwoLayerCNN(nn.Module):
    """Two 3x3 convolutions with max pooling, one hidden layer.

    Xie, Fang, Gong, ICML 2024, Tables 5 and 6; also PoisonedFL. With valid
    convolutions 139 960 parameters for widths (30, 50, 100) on 28x28x1, 1 204 682 for
    (32, 64, 512) on 32x32x3. `padding=1` gives the same-padded reading; `xavier`
    PoisonedFL's initialisation: Glorot's uniform, biases zero.
    """

    num_classes: int
    widths: tuple[int, int, int] = (32, 64, 512)
    padding: int = 0
    lowering: Lowering = "patches"
    xavier: bool = False

    last_layer: ClassVar[str] = "fc2"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        del train, mask  # no running statistics, no coupling between samples
        init: dict[str, Any] = {}
        if self.xavier:
            init = {
                "kernel_init": nn.initializers.glorot_uniform(),
                "bias_init": nn.initializers.zeros,
            }
        for i, width in enumerate(self.widths[:2]):
            conv = Conv(
                width,
                3,
                padding=self.padding,
                pool=True,
                lowering=self.lowering,
                name=f"conv{i + 1}",
                **init,
            )
            # ReLU after the pool gives the same values on a quarter of the data.
            x = nn.relu(conv(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Dense(self.widths[2], name="fc1", **init)(x))
        return Dense(self.num_classes, name="fc2", **init)(x)


class LeadFLFashionCNN(nn.Module):
    """LeadFL's Fashion-MNIST network, 29 034 parameters (Zhu, Roos, Chen 2023, code).

    Two blocks of conv 5x5, BatchNorm, ReLU, max pool. FL-WBC uses it without
    BatchNorm (`batch_norm=False`).
    """

    num_classes: int
    batch_norm: bool = True
    lowering: Lowering = "patches"

    last_layer: ClassVar[str] = "fc"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        for i, width in enumerate((16, 32)):
            x = Conv(width, 5, padding=2, lowering=self.lowering, name=f"conv{i + 1}")(
                x
            )
            if self.batch_norm:
                x = BatchNorm(name=f"bn{i + 1}")(x, train=train, mask=mask)
            x = nn.relu(max_pool(x, 2, 2, native=self.lowering == "native"))
        return Dense(self.num_classes, name="fc")(x.reshape(x.shape[0], -1))


class LeadFLCifarCNN(nn.Module):
    """LeadFL's CIFAR-10 network, 551 466 parameters (Zhu, Roos, Chen 2023, code).

    Three blocks of [conv 3x3, ReLU, BatchNorm] x 2 and max pool, two linear layers
    with no activation between them. `double_softmax=True` returns probabilities, which
    the loss takes for logits: the authors' code does so.
    """

    num_classes: int
    double_softmax: bool = False
    lowering: Lowering = "patches"

    last_layer: ClassVar[str] = "fc2"

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool = False, mask: Array | None = None
    ) -> Array:
        for i, width in enumerate((32, 32, 64, 64, 128, 128)):
            name = f"conv{i + 1}"
            x = nn.relu(Conv(width, 3, padding=1, lowering=self.lowering, name=name)(x))
            x = BatchNorm(name=f"bn{i + 1}")(x, train=train, mask=mask)
            if i % 2:
                x = max_pool(x, 2, 2, native=self.lowering == "native")
        x = Dense(128, name="fc1")(x.reshape(x.shape[0], -1))
        x = Dense(self.num_classes, name="fc2")(x)
        return jnp.asarray(nn.softmax(x)) if self.double_softmax else x
