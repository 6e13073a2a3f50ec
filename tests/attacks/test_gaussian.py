"""Gaussian noise in place of an update."""

import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.gaussian import gaussian
from fedjax_sim.core.errors import InputError


def test_draws_have_the_deviation_and_differ():
    sent = crafted(gaussian(std=3.0), make_view([True, False, False, True], 5000))
    np.testing.assert_allclose(sent.std(1), 3.0, rtol=0.05)
    np.testing.assert_allclose(sent.mean(1), 0.0, atol=0.2)
    assert abs(np.corrcoef(sent)[0, 1]) < 0.1


def test_it_knows_nothing_and_trains_nothing():
    assert gaussian().knowledge == () and not gaussian().trains


def test_a_negative_deviation_is_refused():
    with pytest.raises(InputError, match=r"config\.attack\.std = -1\.0"):
        gaussian(std=-1.0)
