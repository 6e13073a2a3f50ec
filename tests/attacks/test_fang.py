"""Fang's attack on coordinate-wise rules."""

import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.fang import fang
from fedjax_sim.core.errors import InputError

VIEW = make_view([True, False, True, True, False])
KNOWN = np.asarray(VIEW.updates)[np.asarray(VIEW.malicious)]


def test_all_coordinates_move_against_the_mean_by_three_to_four_deviations():
    sent = crafted(fang(), VIEW)
    shift = (KNOWN.mean(0) - sent) / KNOWN.std(0, ddof=1) * np.sign(KNOWN.mean(0))
    assert shift.shape == (3, 20)
    assert (shift > 3 - 1e-4).all() and (shift < 4 + 1e-4).all()
    assert np.ptp(shift, axis=0).all()  # every attacker draws for itself


def test_deterministic_form_is_the_same_for_all():
    sent = crafted(fang(variant="deterministic"), VIEW)
    mean = KNOWN.mean(0)
    expected = mean - 3.5 * KNOWN.std(0) * np.sign(mean)
    np.testing.assert_allclose(sent, [expected] * 3, rtol=1e-4, atol=1e-5)


def test_coordinates_without_a_mean_stay():
    view = VIEW._replace(updates=VIEW.updates.at[:, 3].set(0.0))
    assert not crafted(fang(), view)[:, 3].any()


def test_one_attacker_alone_sends_zeros():
    assert not crafted(fang(), make_view([False, True, False])).any()


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match=r"config\.attack\.variant = 'rand'.*random"):
        fang(variant="rand")
