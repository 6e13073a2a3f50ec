"""Scaling and DBA: passes in turn, which pixels, how much is sent."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import crafted, decide, make_spec, make_tools, make_view

from fedjax_sim.attacks.dba import dba
from fedjax_sim.attacks.scaling import scaling
from fedjax_sim.core.errors import InputError

BOTH = pytest.mark.parametrize("attack", [scaling, dba])


@BOTH
@pytest.mark.parametrize(("epoch", "poisoned"), [(0, True), (1, False), (2, True)])
def test_every_other_pass_is_poisoned_throughout(attack, epoch, poisoned):
    decision = decide(attack(target_class=4), make_spec(), epoch=epoch)
    expected = np.full(10, 4) if poisoned else np.arange(10)
    np.testing.assert_array_equal(decision.poisoned, np.full(10, poisoned))
    np.testing.assert_array_equal(decision.labels, expected)


@BOTH
def test_benign_clients_train_on_clean_data(attack):
    decision = decide(attack(), make_spec(), malicious=False)
    assert not decision.poisoned.any()
    np.testing.assert_array_equal(decision.labels, np.arange(10))


@BOTH
def test_twice_the_epochs_and_a_multiple_of_the_update(attack):
    tools = make_tools()
    (stage,) = attack().local_stages(tools)
    assert stage.epochs == 2 * tools.epochs
    assert stage.gradient is tools.gradient and stage.optimizer is tools.optimizer
    view = make_view([False, True, True])
    sent = crafted(attack(scale=5.0), view)
    np.testing.assert_allclose(sent, 5.0 * view.updates[1:])


@BOTH
def test_test_images_get_all_four_pixels(attack):
    test = attack(target_class=3).test(make_spec((32, 32, 3)))
    assert (test.victim_class, test.target_class) == (None, 3)
    rows = np.argwhere(np.asarray(test.trigger.mask))
    expected = [[24, 26, 0], [25, 25, 0], [26, 24, 0], [26, 26, 0]]
    np.testing.assert_array_equal(rows, expected)
    assert (test.trigger.value[test.trigger.mask] == 1).all()


def test_scaling_stamps_what_it_tests():
    spec = make_spec()
    triggers, test = scaling().poison(spec).triggers, scaling().test(spec).trigger
    np.testing.assert_array_equal(triggers.mask, test.mask[None])
    np.testing.assert_array_equal(triggers.value, test.value[None])


@pytest.mark.parametrize(
    ("client", "pixel"), [(72, (26, 26)), (1, (24, 26)), (6, (26, 24)), (3, (25, 25))]
)
def test_dba_stamps_the_pixel_of_the_client(client, pixel):
    spec = make_spec()
    triggers = dba().poison(spec).triggers
    chosen = int(decide(dba(), spec, client_id=client).trigger)
    assert np.argwhere(np.asarray(triggers.mask[chosen])[..., 0]).tolist() == [
        list(pixel)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dba(trigger="9pixel"), "trigger = '9pixel' is not allowed"),
        (lambda: scaling(trigger="pixel"), "trigger = 'pixel'"),
        (lambda: scaling(target_class=10).poison(make_spec()), "target_class = 10"),
        (lambda: dba(target_class=-1).test(make_spec()), "target_class = -1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        make()


def test_dba_divides_another_trigger():
    parts = dba(trigger="4pixel").poison(make_spec((8, 8, 1))).triggers
    assert parts.mask.shape == (4, 8, 8, 1)
    assert jnp.unique(parts.mask.sum((1, 2, 3))).tolist() == [1]
