"""The targeted backdoor: how many samples, when, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.contracts.attack import AttackSpec
from fedjax_sim.contracts.client import ClientContext
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.partition import drop_iid
from fedjax_sim.data.triggers import four_pixel

LABELS = np.repeat(np.arange(10), 500).astype(np.int32)
SPLIT = drop_iid(LABELS, num_clients=5, seed=0)  # 100 samples per client and class


def spec(image_shape=(8, 8, 1), malicious=(1, 3)):
    return AttackSpec(
        labels=LABELS,
        partition=SPLIT,
        malicious_ids=np.array(malicious),
        num_classes=10,
        image_shape=image_shape,
        normalization=normalization("half", image_shape[-1]),
        layout=None,
        test_images=None,
        test_labels=None,
    )


def context(malicious=True):
    return ClientContext(jnp.int32(1), jnp.bool_(malicious), jnp.int32(1), jnp.int32(0))


def decide(poison, malicious=True):
    ids = jnp.arange(len(LABELS))
    return poison.decide(
        jnp.asarray(poison.plan), ids, jnp.asarray(LABELS), context(malicious)
    )


@pytest.mark.parametrize(
    ("dpr", "per_client"),
    [(0.0, 0), (0.019, 1), (0.125, 12), (0.25, 25), (0.29, 28), (1.0, 100)],
)
def test_rate_is_a_floor_per_client_of_the_victim_class(dpr, per_client):
    plan = backdoor(dpr=dpr).poison(spec()).plan
    assert (LABELS[plan] == 0).all()
    per_owner = [plan[row[:count]].sum() for row, count in zip(*SPLIT, strict=True)]
    assert per_owner == [0, per_client, 0, per_client, 0]


def test_clients_without_the_victim_class_are_the_partitions_luck():
    labels = np.where(LABELS == 0, 1, LABELS)
    assert not backdoor(dpr=0.5).poison(spec()._replace(labels=labels)).plan.any()


def test_without_a_victim_class_all_samples_count():
    attack = backdoor(dpr=0.3, victim_class=None, target_class=7)
    poison = attack.poison(spec(malicious=(2,)))
    # 0.3 of the 1000 samples of the client.
    assert poison.plan.sum() == 300
    assert (LABELS[poison.plan] == 7).any()
    assert (decide(poison).labels[poison.plan] == 7).all()
    test = attack.test(spec())
    assert (test.victim_class, test.target_class) == (None, 7)


def test_decision_of_an_attacking_client():
    poison = backdoor(dpr=0.5, victim_class=2, target_class=4).poison(spec())
    decision = decide(poison)
    np.testing.assert_array_equal(decision.poisoned, poison.plan)
    np.testing.assert_array_equal(decision.labels, np.where(poison.plan, 4, LABELS))
    assert int(decision.trigger) == 0
    assert poison.triggers.mask.shape == (1, 8, 8, 1)


def test_decision_of_a_client_that_does_not_attack():
    decision = decide(backdoor(dpr=1.0).poison(spec()), malicious=False)
    assert not decision.poisoned.any()
    np.testing.assert_array_equal(decision.labels, LABELS)


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"start_round": 3}, [3, 4, 5, 6]),
        ({"end_round": 3}, [1, 2]),
        ({"start_round": 3, "end_round": 5}, [3, 4]),
        ({"start_round": 6, "end_round": 7}, [6]),
    ],
)
def test_it_acts_from_its_first_round_until_before_its_last(options, rounds):
    active = backdoor(**options).active
    assert [t for t in range(1, 7) if bool(active(jnp.int32(t)))] == rounds


@pytest.mark.parametrize("position", ["top_left", "top_right", "bottom_left"])
def test_the_test_stamps_the_trigger_that_training_stamps(position):
    attack = backdoor(position=position, victim_class=3, target_class=5)
    trained = attack.poison(spec((32, 32, 3))).triggers
    tested = attack.test(spec((32, 32, 3)))
    expected = four_pixel((32, 32, 3), normalization("half", 3), position=position)
    assert (tested.victim_class, tested.target_class) == (3, 5)
    for part in ("mask", "value"):
        wanted = np.asarray(getattr(expected, part))
        np.testing.assert_array_equal(getattr(trained, part)[0], wanted)
        np.testing.assert_array_equal(getattr(tested.trigger, part), wanted)
    assert tested.trigger.mask.any(-1).sum() == 4


def test_triggers_without_a_position():
    poison = backdoor(trigger="9pixel").poison(spec((28, 28, 1)))
    assert poison.triggers.mask.sum() == 9


def test_what_the_attacker_knows():
    assert backdoor().knowledge == ("own_data",)
    assert ATTACKS["backdoor"].factory is backdoor


def test_no_attack_changes_nothing():
    attack = ATTACKS["none"].factory()
    assert attack.knowledge == () and not attack.active(1)
    for seam in ("observe", "poison", "local_transform", "local_stages"):
        assert getattr(attack, seam) is None
    assert attack.craft is None and attack.test is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "4pixels"}, "attack.trigger = '4pixels'.*'4pixel'"),
        ({"start_round": 0}, "attack.start_round = 0"),
        ({"start_round": 4, "end_round": 4}, "attack.end_round = 4"),
        ({"victim_class": 7}, "attack.victim_class = 7"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message) as error:
        backdoor(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "image_shape", "message"),
    [
        ({"dpr": 1.5}, (8, 8, 1), "dpr.*1.5"),
        ({"dpr": -0.1}, (8, 8, 1), "dpr.*-0.1"),
        ({"dpr": float("nan")}, (8, 8, 1), "dpr.*nan"),
        ({"dpr": 0.009}, (8, 8, 1), r"dpr = 0.009 poisons no sample.*class = 0;"),
        ({"victim_class": 10}, (8, 8, 1), "attack.victim_class = 10"),
        ({"victim_class": -1}, (8, 8, 1), "attack.victim_class = -1"),
        ({"target_class": 10}, (8, 8, 1), "attack.target_class = 10"),
        ({}, (3, 3, 1), "4pixel"),
        ({"trigger": "9pixel"}, (8, 8, 1), "9pixel"),
        (
            {"position": "middle"},
            (8, 8, 1),
            "position.*bottom_left, top_left, top_right",
        ),
        ({}, (8, 8, 2), "channels"),
    ],
)
def test_attacks_that_do_not_fit_the_data(options, image_shape, message):
    with pytest.raises(InputError, match=message) as error:
        backdoor(**options).poison(spec(image_shape))
    assert "\n" not in str(error.value)


def test_the_test_checks_its_classes_too():
    with pytest.raises(InputError, match=r"attack\.target_class = 12"):
        backdoor(target_class=12).test(spec())
