"""What all data sets have in common."""

import numpy as np
import pytest
from helpers import BASE, digits

from fedjax_sim.data.dataset import fingerprint, first_samples
from fedjax_sim.data.partition import PARTITIONS, check
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.experiment.data import load_data

ORDERED = np.repeat(np.arange(5), [50, 30, 10, 6, 4])


def test_of_a_shuffled_set_the_first_ones():
    labels = np.random.default_rng(1).permutation(ORDERED)
    np.testing.assert_array_equal(first_samples(labels, 20), np.arange(20))


@pytest.mark.parametrize("labels", [ORDERED, ORDERED[::-1]])
def test_of_an_ordered_set_the_share_of_each_class(labels):
    chosen = first_samples(labels, 50)
    assert len(np.unique(chosen)) == 50 and (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen]).tolist() == [25, 15, 5, 3, 2]
    np.testing.assert_array_equal(chosen, first_samples(labels, 50))
    # Rounded, but as many as asked for; the whole set as it is.
    assert len(first_samples(labels, 33)) == 33
    np.testing.assert_array_equal(first_samples(labels, 100), np.arange(100))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_of_an_ordered_data_set_has_all_classes(part):
    data = digits(200, 100)
    for name in ("train", "test"):
        order = np.argsort(getattr(data, f"{name}_labels"), kind="stable")
        data = data._replace(
            **{
                f"{name}_{what}": getattr(data, f"{name}_{what}")[order]
                for what in ("images", "labels")
            }
        )
    changes = {"data": {"name": "arrays", f"num_{part}": 50}}
    found = load_data(resolve(override(BASE, changes)), data)
    labels = getattr(found, f"{part}_labels")
    assert len(labels) == 50 and len(np.unique(labels)) == 10


@pytest.mark.parametrize("name", ["drop_iid", "drop_dirichlet"])
def test_a_share_of_an_ordered_set_has_all_classes(name):
    labels = np.repeat(np.arange(4), 50)
    partition = PARTITIONS[name].factory(
        labels, num_clients=5, seed=0, available_data_ratio=0.5
    )
    check(partition, len(labels))
    used = np.concatenate(
        [row[:n] for row, n in zip(partition.indices, partition.counts, strict=True)]
    )
    assert len(np.unique(labels[used])) == 4
    assert (used >= 100).any()


def test_a_fingerprint_tells_data_sets_apart():
    data = digits(50, 20)
    assert fingerprint(data) == fingerprint(data._replace(name="other"))
    others = [
        data._replace(train_labels=data.train_labels[::-1].copy()),
        data._replace(test_images=data.test_images + 1),
        data._replace(train_images=data.train_images.reshape(50, 4, 16, 1)),
    ]
    assert len({fingerprint(x) for x in (data, *others)}) == 4
