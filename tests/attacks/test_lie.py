"""A Little Is Enough."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import crafted, make_view

from fedjax_sim.attacks.lie import lie, max_shift
from fedjax_sim.contracts.attack import AttackSpec
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import InputError

VIEW = make_view([True, False, True, True, False, False, False, False])


def spec(population, malicious):
    partition = Partition(np.zeros((population, 1)), np.zeros(population))
    return AttackSpec(None, partition, np.arange(malicious), 10, (8, 8, 1), *[None] * 4)


@pytest.mark.parametrize(("attackers", "z"), [(8, 0.0818), (28, 0.4693), (48, 1.5744)])
def test_published_shifts_for_a_hundred_clients(attackers, z):
    np.testing.assert_allclose(max_shift(100, attackers), z, atol=1e-4)


@pytest.mark.parametrize(("clients", "attackers"), [(2, 1), (3, 2), (5, 4), (4, 4)])
def test_shift_is_finite_whoever_was_sampled(clients, attackers):
    assert jnp.isfinite(max_shift(jnp.int32(clients), jnp.int32(attackers)))


@pytest.mark.parametrize("knowledge", ["compromised", "benign"])
def test_a_given_shift_moves_the_mean_by_so_many_deviations(knowledge):
    sent = crafted(lie(z=1.5, knowledge=knowledge), VIEW)
    rows = np.asarray(VIEW.malicious) == (knowledge == "compromised")
    known = np.asarray(VIEW.updates)[rows]
    expected = known.mean(0) - 1.5 * known.std(0)
    np.testing.assert_allclose(sent, [expected] * 3, rtol=1e-4, atol=1e-5)


def test_a_majority_of_attackers_has_no_shift_of_its_own():
    with pytest.raises(InputError, match=r"config\.attack\.z = None .* 51 .* of 100"):
        lie().init(spec(100, 51))
    lie(z=0.5).init(spec(100, 51))
    lie().init(spec(100, 50))
