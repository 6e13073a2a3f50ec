"""What an attack does to the data of its clients."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.attacks.label_flip import relabelled
from fedjax_sim.contracts.attack import Poison, PoisonDecision
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.data.partition import drop_iid
from fedjax_sim.data.poison import poison_plan
from fedjax_sim.round.batches import poisoned_fractions

LABELS = np.repeat(np.arange(10), 50).astype(np.int32)
SPLIT = drop_iid(LABELS, num_clients=5, seed=0)  # 10 samples per class and client


def planned(plan):
    def decide(plan, sample_ids, labels, context):
        hit = plan[sample_ids] & context.malicious
        return PoisonDecision(hit, jnp.where(hit, 1, labels), jnp.int32(0))

    return Poison(None, plan, decide)


@pytest.mark.parametrize("batch_size", [7, 32, 1000])
@pytest.mark.parametrize(("dpr", "expected"), [(0.0, 0), (0.29, 2), (1.0, 10)])
def test_a_plan_counts_the_samples_it_names(batch_size, dpr, expected):
    plan = poison_plan(SPLIT, LABELS, [1, 3], dpr=dpr, victim_class=0)
    clients = np.array([1, 3, 0])
    found = poisoned_fractions(planned(plan), LABELS, SPLIT, clients, batch_size)
    np.testing.assert_allclose(found, [expected / 100] * 2 + [0])


def test_padding_is_no_sample_and_a_client_without_data_has_nothing_poisoned():
    split = Partition(np.array([[1, 2, 0], [0, 0, 0]], np.int32), np.array([2, 0]))
    labels = np.zeros(4, np.int32)
    plan = poison_plan(split, labels, [0, 1], dpr=1.0, victim_class=0)
    found = poisoned_fractions(planned(plan), labels, split, np.array([0, 1]), 2)
    assert found.tolist() == [1.0, 0.0]


def test_a_changed_label_is_poison_too():
    flip = relabelled(lambda labels, key: jnp.where(labels == 3, 4, labels))
    found = poisoned_fractions(flip, LABELS, SPLIT, np.array([2]), 8)
    np.testing.assert_allclose(found, [0.1])
