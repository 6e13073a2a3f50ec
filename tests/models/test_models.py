"""Networks: published parameter counts, the table of models, and its errors."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fedjax_sim.core.errors import InputError
from fedjax_sim.models import MODELS, build
from fedjax_sim.models.activations import in_bfloat16
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.models.resnet import BasicBlock, ResNet

GREY, RGB = (28, 28, 1), (32, 32, 3)

# Tests compile more than they compute: leave out the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "image_shape", "num_classes", "options", "parameters", "buffers"),
    [
        ("resnet18", RGB, 10, {}, 11_173_962, 9_600),
        ("resnet18", GREY, 47, {}, 11_191_791, 9_600),
        ("resnet18", RGB, 47, {}, 11_192_943, 9_600),
        ("resnet18", RGB, 10, {"norm": "group"}, 11_173_962, 0),
        ("resnet34", RGB, 10, {}, 21_282_122, 17_024),
        ("convnet", RGB, 10, {}, 320_010, 0),
        ("convnet", GREY, 10, {}, 317_706, 0),
        ("cnn", GREY, 10, {}, 139_960, 0),
        ("cnn", RGB, 10, {}, 1_204_682, 0),
        ("cnn", GREY, 10, {"padding": 1}, 259_960, 0),
        ("cnn", RGB, 10, {"padding": 1}, 2_122_186, 0),
        ("wide_cnn", RGB, 10, {}, 1_204_682, 0),
        ("wide_cnn", GREY, 10, {"padding": 1}, 1_630_090, 0),
        ("leadfl_fashion", GREY, 10, {}, 29_034, 96),
        ("leadfl_fashion", GREY, 10, {"batch_norm": False}, 28_938, 0),
        ("leadfl_cifar", RGB, 10, {}, 551_466, 896),
        ("mlp", (8, 8, 1), 10, {}, 65 * 64 + 65 * 10, 0),
        ("mlp", (8, 8, 1), 10, {"width": 5}, 65 * 5 + 6 * 10, 0),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name, image_shape, num_classes, options, parameters, buffers
):
    model = build(name, num_classes=num_classes, image_shape=image_shape, **options)
    trees = jax.eval_shape(model.init, jax.random.key(0))
    assert tuple(map(size, trees)) == (parameters, buffers)
    assert model.couples_samples == (buffers > 0)


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (ResNet(None), RGB, 11_168_832),
        (ResNet(None, "plain"), GREY, 11_167_680),
        (Generator(3), (100,), 1_051_145),
        (Generator(1, start=7), (100,), 856_067),
        (Generator(3, affine_output=False), (100,), 1_051_139),
        (Critic(), RGB, 168_097),
        (Critic(), GREY, 167_073),
    ],
)
def test_parameter_counts_of_the_distillation_networks(module, shape, parameters):
    example = jnp.zeros((1, *shape))
    variables = jax.eval_shape(module.init, jax.random.key(0), example)
    assert size(variables["params"]) == parameters


@pytest.mark.parametrize(
    ("shape", "map_shape"),
    [(RGB, (2, 1, 1)), (GREY, (2, 3, 3)), ((8, 8, 1), (2, 2, 2))],
)
def test_size_of_the_critic_s_map(shape, map_shape):
    run = lambda key, x: Critic().init_with_output(key, x)[0]
    x = jnp.zeros((2, *shape))
    assert jax.eval_shape(run, jax.random.key(0), x).shape == map_shape


# The smallest images each network is used with here, to keep the test light.
SHAPES = {"cnn": (10, 10, 1), "wide_cnn": (10, 10, 1)}


# ResNet-34 is ResNet-18 with more blocks, and takes long.
@pytest.mark.parametrize("name", sorted({*MODELS} - {"resnet34"}))
def test_every_model_runs(name):
    shape = SHAPES.get(name, (8, 8, 3))
    model = build(name, num_classes=4, image_shape=shape)
    mask = jnp.array([True, True, False])

    @quick_jit
    def run(key):
        params, buffers = model.init(key)
        x = jax.random.normal(key, (3, *shape))
        evaluated = model.apply(params, buffers, x, train=False)
        trained = model.apply(params, buffers, x, train=True, mask=mask)
        return buffers, evaluated, trained

    buffers, (in_eval, same), (in_train, changed) = run(jax.random.key(0))
    for logits in (in_eval, in_train):
        assert logits.shape == (3, 4) and logits.dtype == jnp.float32
        assert jnp.isfinite(logits).all()
    jax.tree.map(np.testing.assert_array_equal, same, buffers)
    assert jax.tree.structure(changed) == jax.tree.structure(buffers)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(changed), jax.tree.leaves(buffers), strict=True)
    ]
    assert all(moved) and bool(moved) == model.couples_samples


def test_group_norm_is_that_of_its_paper():
    """Wu and He, ECCV 2018, eqs. 2 to 6: 32 groups of channels in each image alone."""
    block = BasicBlock(64, 1, "patches", "group")
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 64)) + 7.0
    variables = quick_jit(partial(block.init, train=True, mask=None))(
        jax.random.key(1), x
    )
    assert list(variables) == ["params"]
    inside = {}

    def note(next_call, args, kwargs, context):
        answer = next_call(*args, **kwargs)
        if context.module.name == "bn1":
            inside["bn1"] = np.array(args[0]), np.array(answer)
        return answer

    with nn.intercept_methods(note):
        block.apply(variables, x, train=True, mask=None)
    before, after = inside["bn1"]
    groups = before.reshape(2, 9, 32, 2).astype(np.float64)
    mean = groups.mean((1, 3), keepdims=True)
    var = ((groups - mean) ** 2).mean((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(before.shape)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # golden vectors check two of them, test_layers.py every layer
@pytest.mark.parametrize(
    "name", ["resnet18", "convnet", "cnn", "leadfl_fashion", "leadfl_cifar"]
)
def test_lowerings_give_the_same_outputs(name):
    shape = SHAPES.get(name, (8, 8, 3))
    outputs = []
    for lowering in ("patches", "blocked", "winograd", "native"):
        model = build(name, num_classes=4, image_shape=shape, lowering=lowering)

        def run(key, model=model):
            x = jax.random.normal(key, (16, *shape))  # so many that Winograd is used
            return model.apply(*model.init(key), x, train=True)[0]

        outputs.append(quick_jit(run)(jax.random.key(0)))
    for output in outputs[1:]:
        # Roundings of float32 add up over eighteen layers and their normalisations.
        np.testing.assert_allclose(outputs[0], output, rtol=1e-5, atol=5e-5)


def test_xavier_initialisation():
    """Glorot's uniform: between -b and b, b^2 = 6 / (inputs + outputs)."""
    model = build("cnn", num_classes=4, image_shape=(28, 28, 1), xavier=True)
    params, _ = quick_jit(model.init)(jax.random.key(0))
    for layer, fans in (("conv1", 9 * 31), ("conv2", 9 * 80), ("fc1", 1350)):
        bound = (6 / fans) ** 0.5
        largest = float(jnp.abs(params[layer]["kernel"]).max())
        assert 0.9 * bound < largest <= bound
        assert not params[layer]["bias"].any()


def test_double_softmax_returns_probabilities():
    model = build(
        "leadfl_cifar", num_classes=3, image_shape=(8, 8, 1), double_softmax=True
    )

    @quick_jit
    def run(key):
        x = jax.random.normal(key, (2, 8, 8, 1))
        return model.apply(*model.init(key), x, train=False)[0]

    out = run(jax.random.key(0))
    np.testing.assert_allclose(out.sum(-1), 1, atol=1e-6)
    assert (out > 0).all()


def test_initialisation_of_the_residual_network():
    @quick_jit
    def kernels(key):  # returns few of them, so the others are never drawn
        grey, rgb = (
            build("resnet18", num_classes=10, image_shape=shape).init(key)[0]
            for shape in (GREY, RGB)
        )
        assert list(rgb["layer1_0"]["conv1"]) == ["kernel"]  # no bias
        inner = rgb["layer4_1"]["conv2"]["kernel"]
        return grey["conv1"]["kernel"], rgb["conv1"]["kernel"], inner, rgb["fc"]

    grey_stem, rgb_stem, inner, head = kernels(jax.random.key(0))
    # The grey stem has PyTorch's uniform default with fan-in 9, the RGB one He's.
    assert 0.95 / 3 < jnp.abs(grey_stem).max() <= 1 / 3
    np.testing.assert_allclose(rgb_stem.std(), (2 / (9 * 64)) ** 0.5, rtol=0.06)
    np.testing.assert_allclose(inner.std(), (2 / (9 * 512)) ** 0.5, rtol=0.01)
    assert 0.95 * 512**-0.5 < jnp.abs(head["kernel"]).max() <= 512**-0.5
    assert 0 < jnp.abs(head["bias"]).max() <= 512**-0.5


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("convnet", (4, 4, 3)),
        ("cnn", (4, 4, 1)),
        ("cnn", (8, 8, 1)),
        ("wide_cnn", (2, 2, 3)),
        ("leadfl_fashion", (2, 2, 1)),
        ("leadfl_cifar", (4, 4, 3)),
        ("leadfl_cifar", (32, 4, 3)),
        ("mlp", (0, 0, 1)),
    ],
)
def test_too_small_images_are_refused(name, image_shape):
    with pytest.raises(InputError) as error:
        build(name, num_classes=10, image_shape=image_shape)
    message = str(error.value)
    assert "\n" not in message
    assert name in message and "x".join(map(str, image_shape)) in message


def test_unknown_model_names_the_nearest():
    with pytest.raises(InputError, match=r"model.name = 'resnet19'.*'resnet18'\?"):
        build("resnet19", num_classes=10, image_shape=RGB)


@pytest.mark.parametrize("num_outputs", [1, 9])
def test_fewer_outputs_than_classes_are_refused(num_outputs):
    with pytest.raises(InputError, match=r"num_outputs = \d must .* classes.* 10"):
        build("resnet18", num_classes=10, image_shape=RGB, num_outputs=num_outputs)


def test_a_layer_too_wide_is_refused():
    with pytest.raises(InputError, match=r"config\.model\.width = 1000000000 must"):
        build("mlp", num_classes=10, image_shape=RGB, width=10**9)


@pytest.mark.parametrize(
    ("name", "lowering", "bound"),
    # Normalisation of a small batch amplifies what was rounded.
    [
        ("cnn", "native", 0.06),
        ("cnn", "patches", 0.06),
        ("leadfl_fashion", "native", 0.2),
    ],
)
def test_bfloat16_activations_keep_float32_around_them(name, lowering, bound):
    shape = (12, 12, 1)
    model = build(name, num_classes=4, image_shape=shape, lowering=lowering)
    low = in_bfloat16(model)
    params, buffers = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (8, *shape))

    def loss(params, model):
        logits, changed = model.apply(params, buffers, x, train=True)
        return jax.nn.log_softmax(logits)[:, 0].sum(), changed

    @quick_jit
    def both(params):
        return [jax.grad(loss, has_aux=True)(params, m) for m in (model, low)]

    for exact, rounded in zip(*both(params), strict=True):
        if jax.tree.leaves(exact):
            flat, low_flat = (ravel_pytree(tree)[0] for tree in (exact, rounded))
            assert low_flat.dtype == jnp.float32
            error = jnp.linalg.norm(low_flat - flat) / jnp.linalg.norm(flat)
            assert 0 < error < bound
    assert "bf16" in str(jax.make_jaxpr(lambda p: loss(p, low)[0])(params))
