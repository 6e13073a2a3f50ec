"""Which samples get poisoned by the rule of DROP's code."""

import numpy as np
import pytest

from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.partition import check, drop_iid
from fedjax_sim.data.poison import poison_plan, redistribute_poison

LABELS = np.repeat(np.arange(10), 500)
SPLIT = drop_iid(LABELS, num_clients=5, seed=0)  # 100 samples per class and client


@pytest.mark.parametrize(
    ("dpr", "expected"), [(0.0, 0), (0.125, 12), (0.29, 28), (0.5, 50), (1.0, 100)]
)
def test_first_samples_of_the_victim_class(dpr, expected):
    plan = poison_plan(SPLIT, LABELS, [1, 3], dpr=dpr, victim_class=0)
    assert plan.sum() == 2 * expected
    for client in (1, 3):
        row = SPLIT.indices[client]
        victims = row[LABELS[row] == 0]
        np.testing.assert_array_equal(np.flatnonzero(plan[victims]), range(expected))


def test_without_victim_class_every_sample_counts():
    plan = poison_plan(SPLIT, LABELS, [2], dpr=0.3, victim_class=None)
    np.testing.assert_array_equal(np.flatnonzero(plan), np.sort(SPLIT.indices[2][:300]))
    assert (LABELS[plan] == 7).any()


def test_padding_and_empty_clients_are_not_poisoned():
    split = Partition(np.array([[1, 2, 0], [0, 0, 0]]), np.array([2, 0]))
    labels = np.zeros(4, int)
    plan = poison_plan(split, labels, [0, 1], dpr=1.0, victim_class=0)
    assert plan.tolist() == [False, True, True, False]
    assert not poison_plan(split, labels, [], dpr=1.0, victim_class=0).any()


@pytest.mark.parametrize(
    ("malicious_ids", "message"), [([5], r"outside 0\.\.4"), ([1, 1], "twice")]
)
def test_impossible_clients_are_refused(malicious_ids, message):
    with pytest.raises(InputError, match=message):
        poison_plan(SPLIT, LABELS, malicious_ids, dpr=0.5, victim_class=0)


def test_redistribution_evens_out_the_poison():
    split = Partition(
        np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, 0, 0, 0], [9, 10, 11, 0, 0, 0]]),
        np.array([6, 3, 3]),
    )
    poisoned = np.zeros(12, bool)
    poisoned[[1, 3, 4, 5, 9]] = True
    spread = redistribute_poison(split, poisoned, [0, 2], seed=0)
    check(spread, 12)
    assert spread.counts.tolist() == [5, 3, 4]  # 2 + 3, untouched, 2 + 2
    first, _, last = spread.indices
    assert poisoned[first[:5]].tolist() == [True] * 3 + [False] * 2
    assert poisoned[last[:4]].tolist() == [True] * 2 + [False] * 2
    assert first[3:5].tolist() == [0, 2] and last[2:4].tolist() == [10, 11]
    assert spread.indices[1, :3].tolist() == [6, 7, 8]
    again = redistribute_poison(split, poisoned, [0, 2], seed=0)
    np.testing.assert_array_equal(again.indices, spread.indices)


@pytest.mark.parametrize("num_poisoned", [0, 1])
def test_redistribution_needs_enough_poison(num_poisoned):
    poisoned = np.zeros(len(LABELS), bool)
    poisoned[SPLIT.indices[0, :num_poisoned]] = True
    with pytest.raises(InputError, match="chunks"):
        redistribute_poison(SPLIT, poisoned, [0, 1], seed=0)
