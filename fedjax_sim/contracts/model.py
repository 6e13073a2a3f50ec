"""What a model is: pure functions on trees, and the same on flat vectors.

Letters: `B` batch, `H x W` pixels, `C` channels, `d` parameters, `b` buffer entries,
`p` features.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.numerics.flat import FlatLayout, flat_layout

PyTree = Any

# How convolutions are computed; see `models.layers`.
Lowering = Literal["patches", "blocked", "winograd", "native"]
# Of float32 matmuls and convolutions, as `jax.default_matmul_precision` names it.
Precision = Literal["default", "high", "highest"]


class Model(NamedTuple):
    """A classifier as pure functions on its parameter and buffer trees.

    `init(key) -> (params, buffers)`; `apply(params, buffers, images f32 [B, H, W, C],
    train, mask) -> (logits f32 [B, classes], buffers)`, where `mask` bool [B] marks
    the real samples of a padded batch and `train` is a Python bool. `features` is
    called as `apply` and returns what the last linear layer is given, f32 [B, p].
    """

    name: str
    init: Callable[[Array], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Array, PyTree]]
    features: Callable[..., tuple[Array, PyTree]]
    last_layer: str  # name of the last linear layer
    couples_samples: bool  # batch statistics: a batch cannot be split


class Network(NamedTuple):
    """A model on flat vectors, in evaluation mode: as servers and attackers use it.

    Attributes:
      model: the model on trees.
      layout, buffer_layout: of its parameters [d] and buffers [b].
      image_shape: (H, W, C).
      num_classes: of the data.
      lowering: of convolutions, for further networks that work beside this one.
      backend: that it is compiled for: cpu, gpu or tpu.
      precision: of its matmuls and convolutions, in training too.
    """

    model: Model
    layout: FlatLayout
    buffer_layout: FlatLayout
    image_shape: tuple[int, int, int]
    num_classes: int
    lowering: Lowering = "patches"
    backend: str = "cpu"
    precision: Precision = "default"

    @classmethod
    def of(
        cls,
        model: Model,
        image_shape: tuple[int, int, int],
        num_classes: int,
        lowering: Lowering = "patches",
        backend: str = "cpu",
        precision: Precision = "default",
    ) -> "Network":
        """Returns the network of a model; nothing is computed."""
        zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
        params, buffers = map(zeros, jax.eval_shape(model.init, jax.random.key(0)))
        return cls(
            model,
            flat_layout(params),
            flat_layout(buffers),
            image_shape,
            num_classes,
            lowering,
            backend,
            precision,
        )

    def in_precision(self) -> AbstractContextManager[Any]:
        """What is traced inside multiplies in the precision of the network.

        Around it the server multiplies in the highest one, see `round.federation`.
        """
        return jax.default_matmul_precision(self.precision)

    def logits(self, params: Array, buffers: Array, images: Array) -> Array:
        """Returns f32 [B, outputs] for normalised images f32 [B, H, W, C]."""
        trees = self.layout.unravel(params), self.buffer_layout.unravel(buffers)
        with self.in_precision():
            return self.model.apply(*trees, images, train=False)[0]

    def features(self, params: Array, buffers: Array, images: Array) -> Array:
        """Returns f32 [B, p], what the last linear layer is given."""
        trees = self.layout.unravel(params), self.buffer_layout.unravel(buffers)
        with self.in_precision():
            return self.model.features(*trees, images, train=False)[0]

    def last_layer(self, vector: Array) -> Array:
        """Returns the entries of f32 [..., d] that belong to the last linear layer."""
        layout = self.layout
        spans = zip(layout.names, layout.offsets, layout.offsets[1:], strict=False)
        return jnp.concatenate(
            [
                vector[..., start:stop]
                for name, start, stop in spans
                if name.split("/")[0] == self.model.last_layer
            ],
            axis=-1,
        )
