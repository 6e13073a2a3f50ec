"""The networks, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.models.cnn import LeadFLCifarCNN, LeadFLFashionCNN, TwoLayerCNN
from fedjax_sim.models.convnet import ConvNet
from fedjax_sim.models.layers import Lowering
from fedjax_sim.models.mlp import MLP
from fedjax_sim.models.resnet import ResNet
from fedjax_sim.numerics.flat import FlatLayout, flat_layout

PyTree = Any


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
    head: str  # name of the last linear layer
    couples_samples: bool  # batch statistics: a batch cannot be split


class Network(NamedTuple):
    """A model on flat vectors, in evaluation mode: as servers and attackers use it.

    Attributes:
      model: the model on trees.
      layout, buffer_layout: of its parameters [d] and buffers [b].
      image_shape: (H, W, C).
      num_classes: of the data.
      lowering: of convolutions, for further networks that work beside this one.
    """

    model: Model
    layout: FlatLayout
    buffer_layout: FlatLayout
    image_shape: tuple[int, int, int]
    num_classes: int
    lowering: Lowering = "patches"

    @classmethod
    def of(
        cls,
        model: Model,
        image_shape: tuple[int, int, int],
        num_classes: int,
        lowering: Lowering = "patches",
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
        )

    def logits(self, params: Array, buffers: Array, images: Array) -> Array:
        """Returns f32 [B, outputs] for normalised images f32 [B, H, W, C]."""
        trees = self.layout.unravel(params), self.buffer_layout.unravel(buffers)
        return self.model.apply(*trees, images, train=False)[0]

    def features(self, params: Array, buffers: Array, images: Array) -> Array:
        """Returns f32 [B, p], what the last linear layer is given."""
        trees = self.layout.unravel(params), self.buffer_layout.unravel(buffers)
        return self.model.features(*trees, images, train=False)[0]

    def head(self, vector: Array) -> Array:
        """Returns the entries of f32 [..., d] that belong to the last linear layer."""
        layout = self.layout
        spans = zip(layout.names, layout.offsets, layout.offsets[1:], strict=False)
        return jnp.concatenate(
            [
                vector[..., start:stop]
                for name, start, stop in spans
                if name.split("/")[0] == self.model.head
            ],
            axis=-1,
        )


class _Entry(NamedTuple):
    build: Callable[..., nn.Module]
    head: str  # name of the last linear layer


def _resnet(blocks):
    def build(
        num_classes: int,
        image_shape,
        lowering: Lowering,
        *,
        num_outputs: int | None = None,
    ) -> nn.Module:
        # The DROP code gives GTSRB and Fashion-MNIST the 47 outputs of EMNIST.
        stem = "pool" if image_shape[-1] == 3 else "plain"
        return ResNet(num_outputs or num_classes, stem, blocks, lowering)

    return build


def _cnn(
    num_classes: int,
    image_shape,
    lowering: Lowering,
    *,
    padding: int = 0,
    widths: tuple[int, int, int] | None = None,
    xavier: bool = False,
):
    # FedREDefense's Tables 5 and 6: narrower for FashionMNIST than for CIFAR-10.
    usual = (30, 50, 100) if image_shape[-1] == 1 else (32, 64, 512)
    return TwoLayerCNN(num_classes, widths or usual, padding, lowering, xavier)


def _wide_cnn(num_classes: int, image_shape, lowering: Lowering, *, padding: int = 0):
    del image_shape
    return TwoLayerCNN(num_classes, (32, 64, 512), padding, lowering)


def _convnet(num_classes: int, image_shape, lowering: Lowering, *, width: int = 128):
    del image_shape
    return ConvNet(num_classes, width, lowering=lowering)


def _leadfl_fashion(
    num_classes: int, image_shape, lowering: Lowering, *, batch_norm: bool = True
):
    del image_shape
    return LeadFLFashionCNN(num_classes, batch_norm, lowering)


def _leadfl_cifar(
    num_classes: int, image_shape, lowering: Lowering, *, double_softmax: bool = False
):
    del image_shape
    return LeadFLCifarCNN(num_classes, double_softmax, lowering)


def _mlp(num_classes: int, image_shape, lowering: Lowering, *, width: int = 64):
    del image_shape, lowering
    if width < 1:
        raise InputError(f"config.model.width = {width} must be at least 1")
    return MLP(num_classes, (width,))


MODELS: dict[str, _Entry] = {
    "resnet18": _Entry(_resnet((2, 2, 2, 2)), "fc"),
    "resnet34": _Entry(_resnet((3, 4, 6, 3)), "fc"),
    "convnet": _Entry(_convnet, "linear"),
    "cnn": _Entry(_cnn, "fc2"),
    "wide_cnn": _Entry(_wide_cnn, "fc2"),
    "leadfl_fashion": _Entry(_leadfl_fashion, "fc"),
    "leadfl_cifar": _Entry(_leadfl_cifar, "fc2"),
    "mlp": _Entry(_mlp, "fc2"),
}


def build(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    lowering: Lowering = "patches",
    **options: Any,
) -> Model:
    """Returns the model `name` for images of `image_shape` (H, W, C).

    Raises:
      InputError: the name is unknown, or the images are too small for the network.
    """
    if name not in MODELS:
        hint = did_you_mean(name, MODELS)
        raise InputError(f"config.model.name = {name!r} is not a model; {hint}")
    entry = MODELS[name]
    module = entry.build(num_classes, image_shape, lowering, **options)
    example = jnp.zeros((1, *image_shape))
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), example)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        shape = "x".join(map(str, image_shape))
        raise InputError(
            f"config.model.name = {name!r} does not take images of {shape} pixels "
            f"({error})"
        ) from error

    def init(key: Array) -> tuple[PyTree, PyTree]:
        variables = module.init(key, example)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, buffers, images, *, train, mask=None):
        return _run(module, params, buffers, images, train=train, mask=mask)

    def features(params, buffers, images, *, train, mask=None):
        seen = []

        def note(next_call, args, kwargs, context):
            if context.module.name == entry.head:
                seen.append(args[0])
            return next_call(*args, **kwargs)

        with nn.intercept_methods(note):
            _, buffers = _run(module, params, buffers, images, train=train, mask=mask)
        return seen[-1], buffers

    couples = "batch_stats" in variables
    return Model(name, init, apply, features, entry.head, couples)


def _run(module, params, buffers, images, *, train, mask):
    variables = {"params": params, "batch_stats": buffers}
    if not train or not buffers:
        return module.apply(variables, images, train=train, mask=mask), buffers
    logits, changed = module.apply(
        variables, images, train=True, mask=mask, mutable=["batch_stats"]
    )
    return logits, changed["batch_stats"]
