"""Label flipping, to the next class and from one class to another."""

import itertools

import numpy as np
import pytest
from attacks.views import decide, make_spec

from fedjax_sim.attacks.label_flip import label_flip
from fedjax_sim.attacks.targeted_label_flip import targeted_label_flip
from fedjax_sim.core.errors import InputError


@pytest.mark.parametrize(
    ("attack", "labels"),
    [
        (label_flip(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]),
        (
            targeted_label_flip(victim_class=4, target_class=2),
            [0, 1, 2, 3, 2, 5, 6, 7, 8, 9],
        ),
    ],
)
def test_labels_of_attackers_change_and_images_do_not(attack, labels):
    decision = decide(attack, make_spec())
    np.testing.assert_array_equal(decision.labels, labels)
    assert not decision.poisoned.any() and attack.poison(make_spec()).triggers is None
    honest = decide(attack, make_spec(), malicious=False)
    np.testing.assert_array_equal(honest.labels, np.arange(10))


def test_classes_wrap_at_the_number_of_the_data_set():
    spec = make_spec()._replace(num_classes=12)
    assert decide(label_flip(), spec).labels[9] == 10


def test_an_offset_of_its_own_for_every_batch():
    seen = set()
    for client, epoch in itertools.product(range(3), range(8)):
        decision = decide(
            label_flip(offset=None), make_spec(), client_id=client, epoch=epoch
        )
        (offset,) = set(((decision.labels - np.arange(10)) % 10).tolist())
        seen.add(offset)
    assert 0 not in seen and len(seen) > 4


def test_an_offset_that_changes_nothing_is_refused():
    assert decide(label_flip(offset=-1), make_spec()).labels[0] == 9
    with pytest.raises(InputError, match=r"config\.attack\.offset = 20"):
        label_flip(offset=20).poison(make_spec())


def test_success_is_measured_without_a_trigger():
    test = targeted_label_flip().test(make_spec())
    assert test.trigger is None
    assert (test.victim_class, test.target_class) == (0, 2)
    assert label_flip().test is None


def test_bad_classes_are_refused():
    with pytest.raises(InputError, match=r"config\.attack\.victim_class = 2"):
        targeted_label_flip(victim_class=2, target_class=2)
    with pytest.raises(InputError, match=r"config\.attack\.victim_class = 11"):
        targeted_label_flip(victim_class=11).poison(make_spec())
