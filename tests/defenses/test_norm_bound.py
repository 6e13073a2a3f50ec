"""Norm bounding: which bound, and who is shortened to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.norm_bound import norm_bound
from fedjax_sim.defenses.parts.clipping import clip_factors, times
from fedjax_sim.numerics.distances import Lengths, row_lengths

UPDATES = [[3.0, 4.0], [0.0, 2.0], [-6.0, 8.0], [0.0, 0.0], [1e25, 0.0]]


@pytest.fixture
def judge(make_cohort, make_context, make_spec):
    """Returns a function to the factors, the shortened updates and their mean."""

    def run(weights=None, malicious=None, **arguments):
        cohort = make_cohort(UPDATES, weights=weights)
        defense = norm_bound(**arguments)
        context = make_context(2)._replace(malicious=jnp.asarray(malicious or [0] * 5))
        context = context._replace(malicious=context.malicious > 0)
        _, judged, result = jax.jit(defense.aggregate)(
            defense.init(make_spec(5, num_params=2)), cohort, context
        )
        return judged.scores["clip_factor"], judged.updates, result.update

    return run


def test_bound_is_the_median_norm_of_all(judge):
    # Norms 5, 2, 10, 0 and 1e25, whose square no float32 can hold: median 5.
    factors, updates, mean = judge()
    np.testing.assert_allclose(factors, [1, 1, 0.5, 1, 5e-25], rtol=1e-5)
    np.testing.assert_allclose(updates[2], [-3, 4], rtol=1e-6)
    np.testing.assert_allclose(mean, [1, 2], rtol=1e-5)


def test_bound_is_the_median_norm_of_those_that_count(judge):
    factors, *_ = judge(weights=[1, 1, 1, 1, 0])
    np.testing.assert_allclose(factors[:4], [0.7, 1, 0.35, 1], rtol=1e-6)


def test_oracle_bound_is_the_mean_norm_of_the_benign(judge):
    factors, *_ = judge(bound="oracle", malicious=[0, 0, 1, 1, 1])
    np.testing.assert_allclose(factors[:4], [0.7, 1, 0.35, 1], rtol=1e-6)
    # A benign client that is absent sets no bound; without any, all do.
    everybody = judge(
        weights=[1, 0, 1, 0, 0], malicious=[1, 0, 1, 0, 0], bound="oracle"
    )
    np.testing.assert_allclose(everybody[0][:3], [1, 1, 0.75], rtol=1e-6)


def test_clip_factors_shorten_and_never_lengthen():
    lengths = Lengths(jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, 1.0, 2.0]))
    assert clip_factors(lengths, 2.0).value.tolist() == [1, 1, 0.5]
    assert clip_factors(lengths, 0.0).value.tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20, 3e38])
@pytest.mark.parametrize("limit", [1e-35, 1e-3, 1e10])
def test_any_length_is_shortened_to_any_limit(size, limit):
    rows = np.array([[1, -1], [-1, 1]], "f4") * np.float32(size)
    factors = clip_factors(row_lengths(jnp.asarray(rows)), np.float32(limit))
    norms = np.linalg.norm(np.asarray(times(factors, rows), float), axis=1)
    np.testing.assert_allclose(norms, min(limit, np.sqrt(2) * size), rtol=1e-5)


def test_an_unknown_bound_is_refused():
    with pytest.raises(InputError, match="did you mean 'oracle'"):
        norm_bound(bound="oracl")
