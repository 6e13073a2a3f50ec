"""Layers: against JAX's and flax's own operations, and against hand computations."""

from functools import partial
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.models import layers
from fedjax_sim.models.layers import (
    BatchNorm,
    Conv,
    Dense,
    InstanceNorm,
    convolution,
    patches,
    taps,
    winograd,
)
from fedjax_sim.models.layers.dense import linear
from fedjax_sim.models.layers.pooled_convolution import pooled_conv_by_patches
from tests.models.helpers import (
    CONVOLUTIONS,
    close,
    lax_conv,
    normal,
    quick_jit,
    trees_close,
)

# ------------------------------------------------------------------ convolution


@pytest.mark.parametrize("conv", [patches.conv_by_patches, convolution.conv_native])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width", "channels"), CONVOLUTIONS
)
def test_convolution_equals_lax(conv, size, stride, padding, height, width, channels):
    x = normal(0, 2, height, width, channels)
    kernel = normal(1, size, size, channels, 4)

    def both(conv):
        out, pullback = jax.vjp(lambda x, k: conv(x, k, stride, padding), x, kernel)
        return out, pullback(normal(2, *out.shape))

    both = quick_jit(both, static_argnums=0)
    trees_close(both(conv), both(lax_conv))


def test_patches_are_ordered_row_column_channel():
    x = jnp.arange(2 * 3 * 2.0).reshape(1, 2, 3, 2)
    found = patches.extract_patches(x, 2, 1, 0)
    assert found[0, 0].tolist() == [
        [0, 1, 2, 3, 6, 7, 8, 9],
        [2, 3, 4, 5, 8, 9, 10, 11],
    ]


@pytest.mark.parametrize("channels", [2, 8])
@pytest.mark.parametrize("conv", [patches.conv_by_patches, convolution.conv_native])
def test_convolution_with_a_kernel_per_client(conv, channels):
    x, kernels = normal(0, 3, 2, 6, 6, channels), normal(1, 3, 3, 3, channels, 4)

    def gradients(x, kernel):
        loss = lambda x, k: jnp.sin(conv(x, k, 2, 1)).sum()
        return jax.value_and_grad(loss, (0, 1))(x, kernel)

    def expected(x, kernel):
        loss = lambda x, k: jnp.sin(lax_conv(x, k, 2, 1)).sum()
        return jax.value_and_grad(loss, (0, 1))(x, kernel)

    expected = quick_jit(expected)
    one_by_one = [expected(*pair) for pair in zip(x, kernels, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    trees_close(quick_jit(jax.vmap(gradients))(x, kernels), stacked)
    in_a_loop = lambda x, k: jax.lax.map(lambda pair: gradients(*pair), (x, k))
    trees_close(quick_jit(in_a_loop)(x, kernels), stacked)


@pytest.mark.parametrize("channels", [2, 8])
def test_second_derivative_of_convolution(channels):
    x, kernel = normal(0, 2, 5, 5, channels), normal(1, 3, 3, channels, 3)

    def penalty(conv):
        """A gradient penalty, as a critic's: the gradient of a squared gradient."""
        slope = jax.grad(lambda x, k: jnp.tanh(conv(x, k, 2, 1)).sum())
        return lambda x, k: (slope(x, k) ** 2).sum()

    gradient = lambda conv: quick_jit(jax.grad(penalty(conv), (0, 1)))(x, kernel)
    trees_close(gradient(patches.conv_by_patches), gradient(lax_conv))


@pytest.mark.parametrize("block_bytes", [1, 3 * 4 * 36 * 27, 10**9])
def test_blocks_of_images_change_nothing(block_bytes):
    x, kernel = normal(0, 6, 6, 6, 3), normal(1, 3, 3, 3, 5)

    def value_and_gradients(conv):
        loss = lambda x, k: (slope(x, k) * conv(x, k)).mean()
        slope = lambda x, k: jnp.sin(conv(x, k))
        return quick_jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)

    blocked = lambda x, k: patches.conv_by_patches(x, k, 1, 1, block_bytes)
    trees_close(
        value_and_gradients(blocked),
        value_and_gradients(lambda x, k: patches.conv_by_patches(x, k, 1, 1)),
    )


@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width"),
    [(4, 2, 1, 8, 7), (2, 2, 0, 7, 8), (6, 3, 2, 9, 11), (4, 4, 0, 4, 4)],
)
def test_a_stride_folded_into_channels(size, stride, padding, height, width):
    x, kernel = normal(0, 2, height, width, 3), normal(1, size, size, 3, 5)

    def folded(x, kernel):
        x, kernel = patches.fold_stride(x, kernel, stride, padding)
        assert kernel.shape == (size // stride, size // stride, 3 * stride**2, 5)
        return lax_conv(x, kernel, 1, 0)

    expected = lax_conv(x, kernel, stride, padding)
    close(quick_jit(folded)(x, kernel), expected)
    conv = Conv(5, size, stride, padding, use_bias=False)
    close(quick_jit(conv.apply)({"params": {"kernel": kernel}}, x), expected)


def test_conv_module_adds_its_bias_in_all_lowerings():
    x = normal(0, 2, 6, 6, 3)
    outputs = []
    for lowering in ("patches", "blocked", "winograd", "native"):
        module = Conv(4, 3, stride=2, padding=1, lowering=lowering)
        variables = module.init(jax.random.key(1), x)
        kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
        assert kernel.shape == (3, 3, 3, 4) and bias.shape == (4,)
        outputs.append(module.apply(variables, x))
        close(outputs[-1], lax_conv(x, kernel, 2, 1) + bias)
    close(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("shape", "features", "size", "stride", "form"),
    [
        ((2, 16, 16, 32), 32, 3, 1, winograd),
        ((2, 16, 16, 31), 32, 3, 1, None),  # fewer channels than were measured
        ((2, 16, 16, 32), 200, 3, 1, None),  # fewer tiles (2 * 64) than channels
        ((2, 16, 16, 32), 32, 5, 1, None),
        ((2, 16, 16, 32), 32, 3, 2, taps),
        ((32, 4, 4, 32), 32, 3, 1, winograd),
        ((4, 4, 4, 32), 32, 3, 1, taps),  # 16 tiles, and 0.69 of the products inside
        ((32, 2, 2, 32), 32, 3, 1, taps),
        ((32, 2, 2, 31), 32, 3, 1, None),
    ],
)
def test_where_fewer_multiplications_pay(
    monkeypatch, shape, features, size, stride, form
):
    used = []
    for candidate in (taps, winograd):

        def conv(*arguments, candidate=candidate, original=candidate.conv):
            used.append(candidate)
            return original(*arguments)

        monkeypatch.setattr(candidate, "conv", conv)
    x = normal(0, *shape)
    fast, direct = (
        Conv(features, size, stride, size // 2, lowering=lowering)
        for lowering in ("winograd", "patches")
    )
    variables = direct.init(jax.random.key(0), x)
    outputs = [quick_jit(conv.apply)(variables, x) for conv in (direct, fast)]
    assert used == ([form] if form else [])
    trees_close(*outputs)


@pytest.mark.parametrize("channels", [1, 3])
def test_conv_module_pools_in_all_lowerings(monkeypatch, channels):
    x, weights = normal(0, 4, 6, 7, channels), normal(2, 4, 3, 3, 4)

    def both(conv, params):
        out, pullback = jax.vjp(conv, params, x)
        return out, pullback(weights)

    def apart(params, x):
        return layers.max_pool(
            lax_conv(x, params["kernel"], 1, 1) + params["bias"], 2, 2
        )

    for lowering, block in product(("patches", "blocked", "native"), (1, 2**20)):
        monkeypatch.setattr(convolution, "POOLED_BLOCK_BYTES", block)
        module = Conv(4, 3, padding=1, pool=True, lowering=lowering)
        params = module.init(jax.random.key(1), x)["params"]
        pooled = lambda params, x, m=module: m.apply({"params": params}, x)
        trees_close(quick_jit(partial(both, pooled))(params), both(apart, params))


@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
def test_derivatives_of_a_linear_layer(rows):
    """Those of a matmul, the second ones too."""
    x, kernel = normal(0, *rows, 4), normal(1, 4, 5)

    def gradients(multiply):
        loss = lambda x, k: jnp.sin(multiply(x, k)).sum()
        slope = lambda x, k: sum((g**2).sum() for g in jax.grad(loss, (0, 1))(x, k))
        both = lambda x, k: (
            jax.grad(loss, (0, 1))(x, k),
            jax.grad(slope, (0, 1))(x, k),
        )
        return quick_jit(both)(x, kernel)

    trees_close(gradients(linear), gradients(jnp.matmul))


def test_dense_is_affine():
    module = Dense(2)
    kernel, bias = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, -5.0])
    variables = {"params": {"kernel": kernel, "bias": bias}}
    assert module.apply(variables, jnp.array([[1.0, 10.0]])).tolist() == [[36, 37]]


@pytest.mark.parametrize(
    ("size", "height", "width", "channels", "joint"),
    [(3, 8, 8, 3, False), (5, 9, 8, 2, True), (2, 5, 7, 1, False), (3, 7, 6, 1, True)],
)
def test_pooled_convolution_equals_convolution_then_pooling(
    size, height, width, channels, joint
):
    x, kernels = normal(0, 2, height, width, channels), normal(1, 3, size, size, 1, 4)
    kernels = kernels * (1 + jnp.arange(channels))[:, None]
    apart = lambda x, k: layers.max_pool(lax_conv(x, k, 1, 0), 2, 2)

    def derivatives(conv):
        """Values, gradients, and gradients of a squared gradient, of three clients."""
        loss = lambda x, k: jnp.sin(conv(x, k)).sum()
        slope = lambda x, k: (jax.grad(loss)(x, k) ** 2).sum() + loss(x, k)
        one = jax.value_and_grad(slope, (0, 1))
        return lambda x, k: (conv(x, k), one(x, k))

    conv = lambda x, k: pooled_conv_by_patches(x, k, joint)
    pooled = quick_jit(jax.vmap(derivatives(conv), (None, 0)))
    one = quick_jit(derivatives(apart))
    expected = [one(x, kernel) for kernel in kernels]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected)
    trees_close(pooled(x, kernels), stacked)


@pytest.mark.parametrize("joint", [False, True])
def test_ties_of_a_pooled_convolution_go_to_the_first_output(joint):
    kernel = jnp.ones((1, 1, 1, 1))
    total = lambda x: pooled_conv_by_patches(x, kernel, joint).sum()
    grad = quick_jit(jax.grad(total))(jnp.full((1, 5, 4, 1), 7.0))
    assert grad[0, ..., 0].tolist() == [[1, 0, 1, 0], [0] * 4] * 2 + [[0] * 4]


# ---------------------------------------------------------------------- pooling

POOLS = [  # size, stride, padding, height, width
    (2, 2, 0, 6, 8),
    (2, 2, 0, 7, 5),
    (3, 3, 0, 10, 9),
    (3, 2, 1, 8, 8),
    (3, 2, 1, 7, 5),
    (3, 2, 0, 7, 8),
    (3, 1, 1, 5, 4),
    (2, 1, 0, 4, 6),
    (2, 3, 0, 8, 7),
]


@pytest.mark.parametrize(("size", "stride", "padding", "height", "width"), POOLS)
def test_max_pool_equals_flax(size, stride, padding, height, width):
    shape = (2, height, width, 3)
    # No ties, and all negative: padding with zeros would win everywhere.
    x = -1.0 - np.random.default_rng(0).permutation(2 * height * width * 3)
    x = jnp.asarray(x.reshape(shape), jnp.float32)

    def reference(x):
        pad = ((padding, padding), (padding, padding))
        return nn.max_pool(x, (size, size), (stride, stride), pad)

    @partial(quick_jit, static_argnums=0)
    def both(pool):
        out, pullback = jax.vjp(pool, x)
        return out, pullback(normal(1, *out.shape))

    expected, expected_grad = both(reference)
    actual, grad = both(lambda x: layers.max_pool(x, size, stride, padding))
    np.testing.assert_array_equal(actual, expected)
    close(grad[0], expected_grad[0], 1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "height", "width", "expected"),
    [
        # Each window gives its 1 to its first element, in rows then columns.
        (2, 2, 4, 4, [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]),
        (2, 1, 3, 3, [[1, 1, 0], [1, 1, 0], [0, 0, 0]]),
        (3, 2, 5, 5, [[1, 0, 1, 0, 0], [0] * 5, [1, 0, 1, 0, 0], [0] * 5, [0] * 5]),
        (2, 2, 3, 5, [[1, 0, 1, 0, 0], [0] * 5, [0] * 5]),
    ],
)
@pytest.mark.parametrize("native", [False, True])
def test_ties_go_to_the_first_element(size, stride, height, width, expected, native):
    x = jnp.full((1, height, width, 1), 7.0)
    pool = lambda x: layers.max_pool(x, size, stride, native=native).sum()
    grad = quick_jit(jax.grad(pool))(x)
    assert grad[0, ..., 0].tolist() == expected


def test_native_pooling_has_second_derivatives():
    """As FedREDefense's reconstruction takes them, of several clients at once."""
    x = normal(0, 3, 2, 6, 6, 2)

    def second(native):
        def outer(x):
            pool = lambda x: jnp.sin(layers.max_pool(x, 2, 2, native=native))
            mean = lambda x: jnp.sin(layers.avg_pool(x, 2, native=native))
            inner = jax.grad(lambda x: pool(x).sum() + mean(x).sum())(x)
            return (inner**2).sum()

        return quick_jit(jax.vmap(jax.grad(outer)))(x)

    close(second(True), second(False), 1e-5)


def test_max_pool_under_vmap_and_in_a_loop():
    x = normal(0, 3, 2, 7, 7, 2)
    grad = jax.grad(lambda x: jnp.sin(layers.max_pool(x, 3, 2, 1)).sum())
    alone = quick_jit(grad)
    expected = jnp.stack([alone(one) for one in x])
    close(quick_jit(jax.vmap(grad))(x), expected, 1e-6)
    close(quick_jit(lambda x: jax.lax.map(grad, x))(x), expected, 1e-6)


@pytest.mark.parametrize(("size", "height", "width"), [(2, 6, 4), (2, 7, 5), (3, 8, 9)])
def test_avg_pool_equals_flax(size, height, width):
    x = normal(0, 2, height, width, 3)
    expected = nn.avg_pool(x, (size, size), (size, size))
    close(layers.avg_pool(x, size), expected, 1e-6)


def test_upsample_repeats_pixels():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    assert layers.upsample(x, 2)[0, ..., 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]


# ---------------------------------------------------------------- normalisation


def batch_norm(x, mask=None, train=True, affine=True, **start):
    module = BatchNorm(affine=affine)

    @quick_jit
    def run(x, mask, start):
        variables = module.init(jax.random.key(0), x, train=False)
        variables["batch_stats"] |= start
        return module.apply(
            variables, x, train=train, mask=mask, mutable=["batch_stats"]
        )

    return run(x, mask, start)


def test_batch_norm_by_hand():
    # Mean 3, biased variance 3.5, unbiased 14/3.
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1)
    out, changed = batch_norm(x)
    close(out[:, 0], (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5 + 1e-5), 1e-6)
    close(changed["batch_stats"]["mean"], [0.3], 1e-6)
    close(changed["batch_stats"]["var"], [0.9 + 0.1 * 14 / 3], 1e-6)


def test_batch_norm_counts_positions_for_the_unbiased_variance():
    x = normal(0, 3, 2, 2, 4) * 5 + 2
    _, changed = batch_norm(x)
    flat = np.asarray(x).reshape(12, 4)
    close(changed["batch_stats"]["mean"], 0.1 * flat.mean(0), 1e-6)
    close(changed["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), 1e-6)


def test_batch_norm_evaluation_uses_running_statistics():
    x = jnp.array([[5.0], [9.0]])
    start = {"mean": jnp.array([1.0]), "var": jnp.array([4.0])}
    out, changed = batch_norm(x, train=False, **start)
    close(out[:, 0], [2.0, 4.0], 1e-5)
    assert changed["batch_stats"]["mean"].tolist() == [1.0]
    assert changed["batch_stats"]["var"].tolist() == [4.0]


@pytest.mark.parametrize("affine", [True, False])
def test_masked_batch_equals_the_short_batch(affine):
    x = normal(0, 5, 3, 3, 4) + 1
    padded = jnp.concatenate([x, 100 * normal(1, 3, 3, 3, 4)])
    mask = jnp.arange(8) < 5
    weights = normal(2, 5, 3, 3, 4)
    module = BatchNorm(affine=affine)
    variables = module.init(jax.random.key(0), x, train=False)
    params = jax.tree.map(lambda p: p + 0.5, variables.get("params", {}))
    assert len(jax.tree.leaves(params)) == (2 if affine else 0)

    def loss(params, x, mask):
        out, changed = module.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            train=True,
            mask=mask,
            mutable=["batch_stats"],
        )
        out = out[:5]
        return (jnp.sin(out) * weights).sum(), (out, changed)

    run = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (short_loss, short_aux), (short_params, short_x) = run(params, x, None)
    (long_loss, long_aux), (long_params, long_x) = run(params, padded, mask)
    close(long_loss, short_loss)
    trees_close(long_aux, short_aux)
    trees_close(long_params, short_params)
    close(long_x[:5], short_x)
    assert not long_x[5:].any()


def test_batch_norm_of_nothing_is_finite():
    out, changed = batch_norm(jnp.ones((2, 3)), mask=jnp.zeros(2, bool))
    assert jnp.isfinite(out).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(changed))


def test_instance_norm_equals_its_formula():
    x = normal(0, 3, 4, 5, 2) * 3 + 1
    module = InstanceNorm()
    params = {"scale": jnp.array([2.0, 0.5]), "bias": jnp.array([-1.0, 3.0])}

    def formula(params, x):
        mean = x.mean((1, 2), keepdims=True)
        var = ((x - mean) ** 2).mean((1, 2), keepdims=True)
        normal = (x - mean) / jnp.sqrt(var + 1e-5)
        return normal * params["scale"] + params["bias"]

    apply = lambda params, x: module.apply({"params": params}, x)
    close(apply(params, x), formula(params, x))
    first = lambda f: jax.grad(lambda p, x: jnp.sin(f(p, x)).sum(), (0, 1))
    trees_close(
        quick_jit(first(apply))(params, x), quick_jit(first(formula))(params, x)
    )
    second = lambda f: jax.grad(lambda x: (first(f)(params, x)[1] ** 2).sum())
    close(quick_jit(second(apply))(x), quick_jit(second(formula))(x), 1e-4)


def test_instance_norm_of_a_constant_is_its_shift():
    variables = {"params": {"scale": jnp.ones(1), "bias": jnp.full(1, 0.25)}}
    out = InstanceNorm().apply(variables, jnp.full((1, 2, 2, 1), 9.0))
    assert out.tolist() == [[[[0.25], [0.25]], [[0.25], [0.25]]]]


# --------------------------------------------------------------- initialisation


@pytest.mark.parametrize(
    ("module", "shape", "fan_in"),
    [(Dense(300), (1, 50), 50), (Conv(300, 3, padding=1), (1, 4, 4, 5), 45)],
)
def test_initial_values_are_uniform_in_pytorch_s_bounds(module, shape, fan_in):
    params = module.init(jax.random.key(0), jnp.zeros(shape))["params"]
    bound = fan_in**-0.5
    for leaf in jax.tree.leaves(params):
        assert 0.95 * bound < jnp.abs(leaf).max() <= bound
    # The variance of a uniform draw is bound^2 / 3.
    np.testing.assert_allclose(params["kernel"].std(), bound / 3**0.5, rtol=0.05)
    assert abs(params["kernel"].mean()) < 0.03 * bound


def test_he_initialisation_has_the_deviation_of_fan_out():
    kernel = layers.he_fan_out(jax.random.key(0), (3, 3, 16, 64))
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.03)
    assert abs(kernel.mean()) < 2e-3


def test_norms_start_as_the_identity():
    x = normal(0, 2, 3, 3, 4)
    for variables in (
        BatchNorm().init(jax.random.key(0), x, train=True),
        InstanceNorm().init(jax.random.key(0), x),
    ):
        assert variables["params"]["scale"].tolist() == [1] * 4
        assert variables["params"]["bias"].tolist() == [0] * 4
        for name, value in variables.get("batch_stats", {}).items():
            assert value.tolist() == [{"mean": 0, "var": 1}[name]] * 4
