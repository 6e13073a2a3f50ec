"""A few test images under wrong labels."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import decide, make_spec
from helpers import after, build

from fedjax_sim.attacks.mislabelled_images import mislabelled_images, wrong_labels
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalize
from fedjax_sim.metrics import evaluation as metrics

LABELS = np.array([3, 1, 4], np.int32)


def spec():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    return make_spec()._replace(test_images=images, test_labels=LABELS)


def test_wrong_labels_are_wrong_and_of_their_own_seed():
    found = wrong_labels(LABELS, 10)
    assert (found != LABELS).all() and ((found >= 0) & (found < 10)).all()
    move = np.random.RandomState(102).randint(1, 10)
    assert found[2] == (4 + move) % 10
    assert set(wrong_labels(np.arange(2), 2)) == {0, 1}


def test_attackers_see_the_images_and_nothing_else():
    facts, attack = spec(), mislabelled_images(num_images=2)
    poison = attack.poison(facts)
    # Client 3 owns the samples 30 to 39; the first two become the two images.
    assert poison.plan[[20, 21, 30, 31]].tolist() == [0, 1, 0, 1]
    wanted = normalize(jnp.asarray(facts.test_images[:2]), facts.normalization)
    np.testing.assert_array_equal(poison.triggers.value, wanted)
    assert bool(poison.triggers.mask.all())

    decision = decide(attack, facts)
    assert bool(decision.poisoned.all()) and decision.trigger.shape == (10,)
    chosen = wrong_labels(LABELS[:2], 10)[np.asarray(decision.trigger)]
    np.testing.assert_array_equal(decision.labels, chosen)
    assert not bool(decide(attack, facts, malicious=False).poisoned.any())


def test_attackers_have_as_many_samples_as_images():
    partition = mislabelled_images(num_images=2).repartition(spec())
    assert partition.counts.tolist() == [10, 10, 2, 2]


def test_too_many_images_are_refused():
    with pytest.raises(InputError, match=r"config\.attack\.num_images = 4 .* 3"):
        mislabelled_images(num_images=4).poison(spec())
    with pytest.raises(InputError, match=r"config\.attack\.num_images"):
        mislabelled_images(num_images=0)


@pytest.mark.slow
def test_the_images_are_taken_for_what_the_attackers_want():
    """All attack: the model learns nothing but their two images."""
    built = build(
        {
            "attack": {"name": "mislabelled_images", "num_images": 2},
            "attack.num_malicious": 6,
            "client.epochs": 5,
            "evaluation.any_source": True,
        }
    )
    assert np.asarray(built.inputs.data.counts).tolist() == [2] * 6
    state = after(built, 8)
    row = metrics.evaluation_row(
        built.evaluate(state, built.inputs, built.test_sets), None
    )
    assert row["asr"] == 100.0 and row["target_confidence"] > 80
    assert row["mta"] < 40 and "asr_all" not in row
