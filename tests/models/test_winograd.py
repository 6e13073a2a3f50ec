"""Winograd's convolution and layers in groups: against the plain forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_sim.models import build, layers
from fedjax_sim.models.layers import winograd
from tests.models.helpers import lax_conv, normal, quick_jit, trees_close

SIZES = [(4, 4), (6, 9), (7, 5), (3, 8)]  # even, odd, and a single row of outputs


def plain(x, kernel, padding=0):
    return lax_conv(x, kernel, 1, padding)


@pytest.mark.parametrize(
    ("height", "width", "padding"),
    [*((*size, 0) for size in SIZES), (6, 9, 1), (7, 4, 1)],
)
def test_winograd_equals_lax(height, width, padding):
    x, kernel = normal(0, 2, height, width, 3), normal(1, 3, 3, 3, 5)

    def both(conv):
        out, pullback = jax.vjp(partial(conv, padding=padding), x, kernel)
        return out, pullback(normal(2, *out.shape))

    both = quick_jit(both, static_argnums=0)
    trees_close(both(winograd.conv), both(plain))


def test_second_derivative_of_winograd():
    x, kernel = normal(0, 2, 6, 7, 3), normal(1, 3, 3, 3, 4)

    def penalty(conv):
        slopes = jax.grad(lambda x, k: jnp.tanh(conv(x, k)).sum(), (0, 1))
        return lambda x, k: sum((slope**2).sum() for slope in slopes(x, k))

    gradient = lambda conv: quick_jit(jax.grad(penalty(conv), (0, 1)))(x, kernel)
    trees_close(gradient(winograd.conv), gradient(plain))


def test_winograd_with_a_kernel_per_client():
    x, kernels = normal(0, 3, 2, 6, 6, 3), normal(1, 3, 3, 3, 3, 4)
    gradients = lambda conv: jax.value_and_grad(
        lambda x, k: jnp.sin(conv(x, k)).sum(), (0, 1)
    )
    one_by_one = [
        quick_jit(gradients(plain))(*pair) for pair in zip(x, kernels, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    trees_close(quick_jit(jax.vmap(gradients(winograd.conv)))(x, kernels), stacked)


def test_float32_stays_within_a_millionth_of_the_largest_output():
    x, kernel = normal(0, 4, 18, 18, 128), normal(1, 3, 3, 128, 128)
    with jax.enable_x64(True):
        exact = plain(*(jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel)))
    error = np.abs(np.asarray(winograd.conv(x, kernel)) - np.asarray(exact)).max()
    assert error < 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(1, marks=pytest.mark.slow),
        6,
        pytest.param(7, marks=pytest.mark.slow),
    ],
)
def test_groups_change_only_the_rounding(batch):
    x = normal(0, batch, 8, 8, 3)
    grouped, plain = (
        build(
            "convnet", num_classes=4, image_shape=(8, 8, 3), width=4, lowering=lowering
        )
        for lowering in ("blocked", "patches")
    )
    params, buffers = quick_jit(grouped.init)(jax.random.key(1))
    trees_close(params, quick_jit(plain.init)(jax.random.key(1))[0])

    def both(model):
        def loss(params):
            logits, _ = model.apply(params, buffers, x, train=True)
            return jnp.sin(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    both = quick_jit(both, static_argnums=0)
    trees_close(both(grouped), both(plain))


def test_groups_divide_the_batch():
    sizes = []

    def remember(_, x):
        sizes.append(x.shape[0])
        return 2 * x

    run = layers.in_groups(remember, 4)
    for batch, group in ((8, 4), (6, 3), (7, 1), (3, 3)):
        sizes.clear()

        class Twice(nn.Module):
            @nn.compact
            def __call__(self, x):
                return run(self, x)

        x = normal(0, batch, 2)
        np.testing.assert_array_equal(Twice().apply({}, x), 2 * x)
        assert set(sizes) == {group}
