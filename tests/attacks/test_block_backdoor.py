"""The block on the first images of every batch."""

import numpy as np
import pytest
from attacks.views import crafted, decide, make_spec, make_view

from fedjax_sim.attacks.block_backdoor import block_backdoor
from fedjax_sim.contracts.attack import ClientContext
from fedjax_sim.core.errors import InputError


@pytest.mark.parametrize(
    ("alpha", "count"), [(0.0, 0), (0.052, 0), (0.29, 2), (1.0, 10)]
)
def test_first_images_of_the_batch(alpha, count):
    decision = decide(block_backdoor(alpha=alpha), make_spec())
    first = np.arange(10) < count
    np.testing.assert_array_equal(decision.poisoned, first)
    np.testing.assert_array_equal(decision.labels, np.where(first, 5, np.arange(10)))


def test_benign_clients_train_on_clean_data():
    decision = decide(block_backdoor(alpha=1.0), make_spec(), malicious=False)
    assert not decision.poisoned.any()


def test_the_test_stamps_the_block_of_training():
    attack = block_backdoor(height=2, width=3, row=1, column=4)
    spec = make_spec((32, 32, 3))
    trained, tested = attack.poison(spec).triggers, attack.test(spec).trigger
    np.testing.assert_array_equal(trained.mask[0], tested.mask)
    assert np.argwhere(np.asarray(tested.mask).any(-1)).tolist() == [
        [r, c] for r in (1, 2) for c in (4, 5, 6)
    ]


def test_boost_multiplies_the_update():
    view = make_view([False, True])
    np.testing.assert_allclose(
        crafted(block_backdoor(boost=4.0), view), 4 * view.updates[1:]
    )


def test_an_upload_of_the_model_beside_the_update():
    """eta (L - G) + G, which the server takes for a difference."""
    view = make_view([False, True])
    attack = block_backdoor(boost=2.0, plus_model=True)
    wanted = 2 * view.updates[1:] + view.global_params
    np.testing.assert_allclose(crafted(attack, view), wanted)


@pytest.mark.parametrize(("size", "alpha"), [(100, 0.29), (100, 0.57), (50, 0.58)])
def test_the_number_of_images_is_that_of_python(size, alpha):
    """int(B alpha) of the listing: 28 of 100 at 0.29, where float32 has 29."""
    attack = block_backdoor(alpha=alpha)
    poison = attack.poison(make_spec())
    ids = np.zeros(size, np.int32)
    context = ClientContext(np.int32(3), np.bool_(True), np.int32(1), np.int32(0))
    decision = poison.decide((), ids, ids, context)
    assert int(decision.poisoned.sum()) == int(size * alpha)
    assert int(size * alpha) != int(np.float32(alpha) * np.float32(size))


def test_bad_options_are_refused():
    with pytest.raises(InputError, match=r"config\.attack\.height = 0"):
        block_backdoor(height=0)
    with pytest.raises(InputError, match=r"config\.attack\.alpha = 1\.1"):
        block_backdoor(alpha=1.1)
    with pytest.raises(InputError, match="target_class = 10"):
        block_backdoor(target_class=10).test(make_spec())
    with pytest.raises(InputError, match="block"):
        block_backdoor(column=27).poison(make_spec())
