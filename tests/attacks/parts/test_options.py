"""Checks that several attacks share: one line with key, value and what is allowed."""

import jax.numpy as jnp
import pytest
from attacks.views import make_spec

from fedjax_sim.attacks.parts import options
from fedjax_sim.core.errors import InputError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: options.active_rounds(4, 4), r"end_round = 4 must .*start_round = 4"),
        (
            lambda: options.require_trigger("5pixel"),
            r"trigger = '5pixel' is not allowed",
        ),
        (
            lambda: options.require_classes(make_spec(), target_class=10),
            r"target_class = 10 must lie between 0 and 9$",
        ),
    ],
)
def test_values_outside_their_range_are_refused(call, message):
    with pytest.raises(InputError, match=r"^config\.attack\." + message) as error:
        call()
    assert "\n" not in str(error.value)


def test_values_inside_their_range_pass():
    options.require_trigger("9pixel")
    options.require_classes(make_spec(), victim_class=None, target_class=9)
    active = options.active_rounds(2, 4)
    assert [bool(active(jnp.int32(t))) for t in range(1, 5)] == [0, 1, 1, 0]
