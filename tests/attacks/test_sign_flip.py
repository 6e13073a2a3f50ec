"""Sign flipping: each attacker's own update, turned round."""

import numpy as np
from attacks.views import crafted, make_view

from fedjax_sim.attacks.sign_flip import sign_flip


def test_each_update_is_turned_round_and_scaled():
    view = make_view([True, False, False, True, False], 5000)
    sent = crafted(sign_flip(scale=2.5), view)
    np.testing.assert_allclose(sent, -2.5 * np.asarray(view.updates)[[0, 3]])
