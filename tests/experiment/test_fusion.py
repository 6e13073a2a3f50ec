"""The memory estimate of accelerators: of programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_sim.experiment.fusion import fused_peak_bytes
from fedjax_sim.models import build

MB = 10**6


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


X = floats(MB // 4)
SQUARE = floats(500, 500)  # 1 MB


@pytest.mark.parametrize(
    ("function", "arguments", "megabytes"),
    [
        pytest.param(lambda x, y: (x, y), [X, X], 2, id="arguments"),
        pytest.param(lambda x: jnp.sin(jnp.cos(x)) + x, [X], 2, id="in and out"),
        pytest.param(lambda x: jnp.sin(jnp.cos(x) + x).sum(), [X], 1, id="a reduction"),
        pytest.param(
            lambda x: jnp.max(x[:, None] * x[None, :] + 1), [floats(500)], 0, id="outer"
        ),
        # A product is written; the sine of it is not, and it lives until then.
        pytest.param(lambda x: jnp.sin(x @ x).sum(), [SQUARE], 2, id="a product"),
        # What goes into a product is written: the sine, the cosine; x or the product.
        pytest.param(
            lambda x: (jnp.sin(x) @ jnp.cos(x)).sum(), [SQUARE], 3, id="into a product"
        ),
        # x, what is carried, and the next of it.
        pytest.param(
            lambda x: jax.lax.scan(lambda s, _: (s @ x, None), x, length=3)[0],
            [SQUARE],
            3,
            id="a loop",
        ),
    ],
)
@pytest.mark.parametrize("called", [False, True])
def test_counted_by_hand(function, arguments, megabytes, called):
    found = fused_peak_bytes(jax.jit(function) if called else function, *arguments)
    assert found == pytest.approx(megabytes * MB, abs=5000)


def test_an_intermediate_made_again_keeps_what_it_is_made_of():
    def late(x):
        y = x @ x
        shifted = y + 1.0  # of y, which lives on
        z = jnp.sin(x) @ y
        return (z * shifted).sum()

    # y, the sine and z; with y read for the last time before z it would be two.
    assert fused_peak_bytes(late, SQUARE) == pytest.approx(3 * MB, abs=5000)


def test_an_evaluation_of_the_convnet_is_what_an_h100_needs():
    """Compiled for it by jax 0.12.0.1 (500 images of 32x32x3): 314.2 MiB."""
    model = build("convnet", num_classes=10, image_shape=(32, 32, 3), lowering="native")
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    forward = lambda params, x: model.apply(params, buffers, x, train=False)[0]
    needed = fused_peak_bytes(forward, params, floats(500, 32, 32, 3))
    assert needed / 2**20 == pytest.approx(314.2, rel=0.05)
