"""Convolutions tap by tap: against lax, and what they leave out."""

from functools import partial

import jax
import pytest

from fedjax_sim.models.layers import taps
from tests.models.helpers import (
    CONVOLUTIONS,
    lax_conv,
    normal,
    quick_jit,
    trees_close,
)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "height", "width", "channels"),
    [
        *CONVOLUTIONS,
        (3, 1, 1, 2, 2, 4),
        (3, 1, 1, 1, 3, 4),  # rows above and below never meet the image
        (3, 2, 1, 4, 1, 4),
        (5, 2, 2, 2, 3, 3),
    ],
)
def test_convolution_by_taps_equals_lax(size, stride, padding, height, width, channels):
    x, kernel = (
        normal(0, 2, height, width, channels),
        normal(1, size, size, channels, 5),
    )

    def both(conv):
        out, pullback = jax.vjp(lambda x, k: conv(x, k, stride, padding), x, kernel)
        return out, pullback(normal(2, *out.shape))

    both = quick_jit(both, static_argnums=0)
    trees_close(both(taps.conv), both(lax_conv))


def test_taps_with_a_kernel_per_client():
    x, kernels = normal(0, 3, 2, 4, 4, 3), normal(1, 3, 3, 3, 3, 4)
    convs = (partial(conv, stride=2, padding=1) for conv in (taps.conv, lax_conv))
    trees_close(*(quick_jit(jax.vmap(conv))(x, kernels) for conv in convs))


@pytest.mark.parametrize(
    ("length", "stride", "padding", "share"),
    [
        (2, 1, 1, 16 / 36),
        (4, 1, 1, 100 / 144),
        (4, 2, 1, 25 / 36),
        (5, 1, 0, 1.0),
        (1, 1, 1, 1 / 9),
    ],
)
def test_share_of_taps_inside_the_image(length, stride, padding, share):
    shape = (7, length, length, 3)
    assert taps.share_inside(shape, 3, stride, padding) == pytest.approx(share)
