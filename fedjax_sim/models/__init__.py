"""The networks, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.errors import InputError, did_you_mean
from fedjax_sim.models.cnn import LeadFLCifarCNN, LeadFLFashionCNN, TwoLayerCNN
from fedjax_sim.models.convnet import ConvNet
from fedjax_sim.models.layers import Lowering
from fedjax_sim.models.mlp import MLP
from fedjax_sim.models.resnet import ResNet

PyTree = Any


class Model(NamedTuple):
    """A classifier as pure functions on its parameter and buffer trees.

    `init(key) -> (params, buffers)`; `apply(params, buffers, images f32 [B, H, W, C],
    train, mask) -> (logits f32 [B, classes], buffers)`, where `mask` bool [B] marks
    the real samples of a padded batch and `train` is a Python bool.
    """

    name: str
    init: Callable[[Array], tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[Array, PyTree]]
    couples_samples: bool  # batch statistics: a batch cannot be split
    cpu_microbatch: int | None  # measured: see launch/bench.py


class _Entry(NamedTuple):
    build: Callable[..., nn.Module]
    # Samples per forward-backward pass that keep the activations of one pass inside
    # the CPU's cache; None where the weights' traffic outweighs that.
    cpu_microbatch: int | None = None


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


def _cnn(num_classes: int, image_shape, lowering: Lowering, *, padding: int = 0):
    # FedREDefense's Tables 5 and 6: narrower for FashionMNIST than for CIFAR-10.
    widths = (30, 50, 100) if image_shape[-1] == 1 else (32, 64, 512)
    return TwoLayerCNN(num_classes, widths, padding, lowering)


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
    return MLP(num_classes, (width,))


MODELS: dict[str, _Entry] = {
    "resnet18": _Entry(_resnet((2, 2, 2, 2))),
    "resnet34": _Entry(_resnet((3, 4, 6, 3))),
    "convnet": _Entry(_convnet, cpu_microbatch=4),
    "cnn": _Entry(_cnn),
    "wide_cnn": _Entry(_wide_cnn),
    "leadfl_fashion": _Entry(_leadfl_fashion),
    "leadfl_cifar": _Entry(_leadfl_cifar),
    "mlp": _Entry(_mlp),
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
        variables = {"params": params, "batch_stats": buffers}
        if not train or not buffers:
            logits = module.apply(variables, images, train=train, mask=mask)
            return logits, buffers
        logits, changed = module.apply(
            variables, images, train=True, mask=mask, mutable=["batch_stats"]
        )
        return logits, changed["batch_stats"]

    couples = "batch_stats" in variables
    return Model(name, init, apply, couples, entry.cpu_microbatch)
