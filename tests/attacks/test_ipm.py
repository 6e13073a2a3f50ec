"""Inner product manipulation: the negative of a mean."""

import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.ipm import ipm


@pytest.mark.parametrize(
    ("knowledge", "epsilon", "rows"),
    [("benign", 0.1, [1, 2, 4]), ("compromised", 2.0, [0, 3])],
)
def test_a_mean_of_known_updates_is_reversed(knowledge, epsilon, rows):
    view = make_view([True, False, False, True, False], 5000)
    sent = crafted(ipm(epsilon=epsilon, knowledge=knowledge), view)
    expected = -epsilon * np.asarray(view.updates)[rows].mean(0)
    np.testing.assert_allclose(sent, [expected] * 2, rtol=1e-4, atol=1e-6)


def test_by_default_it_knows_benign_updates():
    assert ipm().knowledge == ("benign_updates",)
