"""The trimmed mean on columns worked out by hand."""

import jax
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.trimmed_mean import trimmed_mean

UPDATES = [[1.0, -8.0], [3.0, 0.0], [5.0, 4.0], [1e9, 2.0], [7.0, 1.0]]


@pytest.fixture
def aggregate(make_cohort, make_context, make_spec):
    def run(weights=None, num_malicious=0, **arguments):
        cohort = make_cohort(UPDATES, weights=weights, buffers=UPDATES)
        defense = trimmed_mean(**arguments)
        spec = make_spec(5, 5, num_malicious, num_params=2, num_buffers=2)
        _, _, result = jax.jit(defense.aggregate)(
            defense.init(spec), cohort, make_context(2, 2)
        )
        np.testing.assert_array_equal(result.update, result.buffers)
        return result.update

    return run


def test_trimmed_mean_by_hand(aggregate):
    np.testing.assert_allclose(aggregate(num_byzantine=1), [5, 1], rtol=1e-6)
    np.testing.assert_allclose(aggregate(num_byzantine=2), [5, 1], rtol=1e-6)
    np.testing.assert_allclose(aggregate(num_byzantine=0)[1], -0.2, rtol=1e-5)


def test_f_from_the_threat_model(aggregate):
    np.testing.assert_allclose(aggregate(num_malicious=1), [5, 1], rtol=1e-6)
    # The released code trims one more than it is told, here none.
    np.testing.assert_allclose(aggregate(variant="authors"), [5, 1], rtol=1e-6)


def test_too_much_to_trim_leaves_the_middle(aggregate):
    np.testing.assert_allclose(aggregate(num_byzantine=5), [5, 1], rtol=1e-6)
    few = aggregate(weights=[1, 1, 1, 0, 1], num_byzantine=4)
    np.testing.assert_allclose(few, [4, 0.5], rtol=1e-6)


def test_bad_arguments_are_refused(make_spec):
    with pytest.raises(InputError, match="num_byzantine = 6 must lie between 0 and 5"):
        trimmed_mean(num_byzantine=6).init(make_spec(5))
    with pytest.raises(InputError, match="did you mean 'paper'"):
        trimmed_mean(variant="papr")
