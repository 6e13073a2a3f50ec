"""The networks, by name.

A factory is told the number of classes, the shape (H, W, C) of an image and how
convolutions are computed; its other arguments are the options of the config.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.entry import Entry, Table
from fedjax_sim.contracts.model import Lowering, Model
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Natural, Width, checked
from fedjax_sim.models.cnn import LeadFLCifarCNN, LeadFLFashionCNN, TwoLayerCNN
from fedjax_sim.models.convnet import ConvNet
from fedjax_sim.models.mlp import MLP
from fedjax_sim.models.resnet import Norm, ResNet

PyTree = Any


def _resnet(blocks):
    @checked("model")
    def resnet(
        num_classes: int,
        image_shape,
        lowering: Lowering,
        *,
        num_outputs: Width | None = None,
        norm: Norm = "batch",
    ) -> nn.Module:
        """A residual network.

        Args:
          norm: BatchNorm, or GroupNorm in 32 groups.
          num_outputs: of the last layer, None: one for each class. (The DROP code
            gives GTSRB and Fashion-MNIST the 47 of EMNIST.)
        """
        if num_outputs is not None and num_outputs < num_classes:
            raise InputError(
                f"config.model.num_outputs = {num_outputs} must be at least the number "
                f"of classes of the data, {num_classes}"
            )
        stem = "pool" if image_shape[-1] == 3 else "plain"
        return ResNet(num_outputs or num_classes, stem, blocks, lowering, norm)

    return resnet


@checked("model")
def _cnn(
    num_classes: int,
    image_shape,
    lowering: Lowering,
    *,
    padding: Natural = 0,
    widths: tuple[Width, Width, Width] | None = None,
    xavier: bool = False,
):
    """Two convolutions and a hidden layer, see `TwoLayerCNN`.

    Args:
      padding: of the convolutions, in pixels.
      widths: of the convolutions and the hidden layer; None: those of the paper.
      xavier: Glorot's uniform initialisation, biases zero (PoisonedFL).
    """
    # FedREDefense's Tables 5 and 6: narrower for FashionMNIST than for CIFAR-10.
    usual = (30, 50, 100) if image_shape[-1] == 1 else (32, 64, 512)
    return TwoLayerCNN(num_classes, widths or usual, padding, lowering, xavier)


@checked("model")
def _wide_cnn(
    num_classes: int, image_shape, lowering: Lowering, *, padding: Natural = 0
):
    """The same with the widths of CIFAR-10 for all images.

    Args:
      padding: of the convolutions, in pixels.
    """
    del image_shape
    return TwoLayerCNN(num_classes, (32, 64, 512), padding, lowering)


@checked("model")
def _convnet(num_classes: int, image_shape, lowering: Lowering, *, width: Width = 128):
    """Blocks of convolution, normalisation and pooling, see `ConvNet`.

    Args:
      width: channels of each convolution.
    """
    del image_shape
    return ConvNet(num_classes, width, lowering=lowering)


@checked("model")
def _leadfl_fashion(
    num_classes: int, image_shape, lowering: Lowering, *, batch_norm: bool = True
):
    """LeadFL's network for Fashion-MNIST, see `LeadFLFashionCNN`.

    Args:
      batch_norm: with BatchNorm; FL-WBC uses it without.
    """
    del image_shape
    return LeadFLFashionCNN(num_classes, batch_norm, lowering)


@checked("model")
def _leadfl_cifar(
    num_classes: int, image_shape, lowering: Lowering, *, double_softmax: bool = False
):
    """LeadFL's network for CIFAR-10, see `LeadFLCifarCNN`.

    Args:
      double_softmax: return probabilities, which the loss takes for logits (the code).
    """
    del image_shape
    return LeadFLCifarCNN(num_classes, double_softmax, lowering)


@checked("model")
def _mlp(num_classes: int, image_shape, lowering: Lowering, *, width: Width = 64):
    """One hidden layer.

    Args:
      width: of the hidden layer.
    """
    del image_shape, lowering
    return MLP(num_classes, (width,))


MODELS = Table(
    "model",
    "models",
    {
        "resnet18": Entry(_resnet((2, 2, 2, 2)), "He et al., CVPR 2016"),
        "resnet34": Entry(_resnet((3, 4, 6, 3)), "He et al., CVPR 2016"),
        "convnet": Entry(_convnet, "released code of Xie, Fang, Gong, ICML 2024"),
        "cnn": Entry(_cnn, "Xie, Fang, Gong, ICML 2024, Tables 5 and 6"),
        "wide_cnn": Entry(_wide_cnn, "Xie, Fang, Gong, ICML 2024, Table 6"),
        "leadfl_fashion": Entry(
            _leadfl_fashion, "released code of Zhu, Roos, Chen, ICML 2023"
        ),
        "leadfl_cifar": Entry(
            _leadfl_cifar, "released code of Zhu, Roos, Chen, ICML 2023"
        ),
        "mlp": Entry(_mlp, "-"),
    },
)


def build(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    lowering: Lowering = "patches",
    **options: Any,
) -> Model:
    """Returns the model `name` for images of `image_shape` (H, W, C).

    The factory of that name is given, of the first three facts, those it asks for, and
    returns a flax module: `module.apply(variables, images f32 [B, H, W, C], train=...,
    mask=...)` gives logits f32 [B, classes], and `module.last_layer` names its last
    linear layer.

    Raises:
      InputError: the name is unknown, its factory returns something else, or the
        images are too small for the network.
    """
    factory = MODELS.find(name).factory
    facts = {
        "num_classes": num_classes,
        "image_shape": image_shape,
        "lowering": lowering,
    }
    asked = inspect.signature(factory).parameters
    facts = {key: value for key, value in facts.items() if key in asked}
    module = factory(**facts, **options)
    if not hasattr(module, "last_layer"):
        raise InputError(
            f"config.model.name = {name!r} gives a {type(module).__name__} without "
            "`last_layer`, the name of its last linear layer"
        )
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
            if context.module.name == module.last_layer:
                seen.append(args[0])
            return next_call(*args, **kwargs)

        with nn.intercept_methods(note):
            _, buffers = _run(module, params, buffers, images, train=train, mask=mask)
        return seen[-1], buffers

    couples = "batch_stats" in variables
    return Model(name, init, apply, features, module.last_layer, couples)


def _run(module, params, buffers, images, *, train, mask):
    variables = {"params": params, "batch_stats": buffers}
    if not train or not buffers:
        return module.apply(variables, images, train=train, mask=mask), buffers
    logits, changed = module.apply(
        variables, images, train=True, mask=mask, mutable=["batch_stats"]
    )
    return logits, changed["batch_stats"]
