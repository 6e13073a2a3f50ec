"""FedAvg and the coordinate-wise median on cases worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.defenses.median import median

UPDATES = [[1.0, -2.0], [3.0, 0.0], [5.0, 4.0], [100.0, 2.0]]
BUFFERS = [[1.0], [2.0], [4.0], [8.0]]


@pytest.fixture
def aggregate(make_cohort, make_context, make_spec):
    def run(defense, weights=None):
        cohort = make_cohort(UPDATES, weights=weights, buffers=BUFFERS)
        state = defense.init(make_spec(4, num_params=2, num_buffers=1))
        _, _, result = jax.jit(defense.aggregate)(state, cohort, make_context(2, 1))
        return np.concatenate([result.update, result.buffers]).tolist()

    return run


def test_fedavg_is_the_mean(aggregate):
    assert aggregate(fedavg()) == [27.25, 1.0, 3.75]
    assert aggregate(fedavg(), weights=[1, 1, 0, 0]) == [2.0, -1.0, 1.5]
    assert aggregate(fedavg(), weights=[3, 1, 0, 0]) == [1.5, -1.5, 1.25]


def test_median_takes_the_midpoint_or_the_lower_value(aggregate):
    assert aggregate(median()) == [4.0, 1.0, 3.0]
    assert aggregate(median(variant="authors")) == [3.0, 0.0, 2.0]


def test_median_of_an_odd_number_is_the_middle(aggregate):
    for variant in ("paper", "authors"):
        defense = median(variant=variant)
        assert aggregate(defense, weights=[1, 1, 1, 0]) == [3.0, 0.0, 2.0]


def test_median_inside_a_larger_program(make_cohort, make_context, make_spec):
    defense = median()
    state = defense.init(make_spec(4, num_params=2, num_buffers=1))

    @jax.jit
    def new_model(cohort, context):
        _, _, result = defense.aggregate(state, cohort, context)
        return context.global_params + result.update, jnp.linalg.norm(result.update)

    params, norm = new_model(make_cohort(UPDATES, buffers=BUFFERS), make_context(2, 1))
    assert params.tolist() == [3.0, 2.0]
    np.testing.assert_allclose(norm, np.sqrt(17))


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match=r"variant = 'papr' .*did you mean 'paper'"):
        median(variant="papr")
