"""What is measured of a model: every definition with numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.attack import BackdoorTest
from fedjax_sim.contracts.dataset import Dataset, Trigger
from fedjax_sim.contracts.model import Model
from fedjax_sim.data.normalize import normalization
from fedjax_sim.metrics import evaluation as metrics
from fedjax_sim.metrics.evaluation import Counts

UNIT = normalization("unit", 1)
# Probabilities: the softmax of a logarithm.
SOFTMAX = [[0.75, 0.25], [0.75, 0.25], [0.1, 0.9], [0.1, 0.9], [0.5, 0.5]]
LOGITS = jnp.log(jnp.array(SOFTMAX))
LABELS = jnp.array([0, 1, 1, 0, 0])
ALL = jnp.ones(5, bool)


def counted(labels=LABELS, mask=ALL, threshold=None):
    counts = metrics.count_predictions(LOGITS, labels, mask, threshold)
    return [*map(int, counts[:4]), float(counts.loss)]


def test_count_predictions_by_hand():
    total, correct, retained, retained_correct, loss = counted()
    # A tie goes to the smaller class.
    assert (total, correct, retained, retained_correct) == (5, 3, 5, 3)
    expected = -np.log([0.75, 0.25, 0.9, 0.1, 0.5]).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_count_predictions_leaves_out_what_is_masked():
    mask = jnp.array([True, True, False, True, False])
    total, correct, retained, retained_correct, loss = counted(mask=mask)
    assert (total, correct, retained, retained_correct) == (3, 1, 3, 1)
    np.testing.assert_allclose(loss, -np.log([0.75, 0.25, 0.1]).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.4, (5, 3, 5, 3)),
        (0.6, (5, 3, 4, 2)),
        (0.8, (5, 3, 2, 1)),
        (0.95, (5, 3, 0, 0)),
    ],
)
def test_unsure_answers_are_not_retained(threshold, expected):
    assert tuple(counted(threshold=threshold)[:4]) == expected


def test_infinite_loss_of_padding_is_left_out():
    logits = jnp.array([[0.0, 0.0], [jnp.nan, jnp.nan]])
    mask = jnp.array([True, False])
    counts = metrics.count_predictions(logits, jnp.array([0, 0]), mask, 0.4)
    assert (int(counts.total), int(counts.correct), int(counts.retained)) == (1, 1, 1)
    np.testing.assert_allclose(counts.loss, np.log(2), rtol=1e-6)


def test_percent_of_nothing_is_zero():
    assert metrics.percent(1, 8) == 12.5
    assert metrics.percent(0, 8) == 0.0
    assert metrics.percent(0, 0) == 0.0


# ------------------------------------------------------------------ evaluation rows


def counts(total, correct, retained=0, retained_correct=0, loss=0.0, confidence=0.0):
    sums = map(jnp.int32, (total, correct, retained, retained_correct))
    return Counts(*sums, loss, confidence)


def test_evaluation_row_holds_rates_and_mean_losses():
    row = metrics.evaluation_row(
        {
            "clean": counts(200, 67, 95, 39, 300.0),
            "backdoor": counts(100, 41, 54, 31, 250.0, 20.0),
            "any_source": counts(180, 45),
            "all_sources": counts(200, 65),
        },
        0.4,
    )
    assert row == pytest.approx(
        {
            "mta": 33.5,
            "test_loss": 1.5,
            "asr": 41.0,
            "backdoor_loss": 2.5,
            "target_confidence": 20.0,
            "asr_any_source": 25.0,
            "asr_all": 32.5,
            "retained": 47.5,
            "conditional_mta": 3900 / 95,
            "retained_asr": 54.0,
            "conditional_asr": 3100 / 54,
        }
    )


def test_evaluation_row_of_a_clean_run():
    row = metrics.evaluation_row({"clean": counts(8, 2, 8, 2, 4.0)}, None)
    assert row == {"mta": 25.0, "test_loss": 0.5}


def test_evaluation_row_where_nothing_is_retained_or_nothing_was_tested():
    row = metrics.evaluation_row({"clean": counts(4, 1), "backdoor": counts(0, 0)}, 0.9)
    assert (row["retained"], row["conditional_mta"]) == (0.0, 0.0)
    assert row["asr"] is row["backdoor_loss"] is row["target_confidence"] is None


# --------------------------------------------------------------------------- sets


def test_image_set_pads_the_last_batch():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) + 1
    labels = np.array([4, 3, 2, 1, 7])
    batches = metrics.image_set(images, labels, 2, {"even": labels % 2 == 0})
    assert batches.images.shape == (3, 2, 1, 1, 1)
    assert batches.images.ravel().tolist() == [1, 2, 3, 4, 5, 0]
    assert batches.labels.tolist() == [[4, 3], [2, 1], [7, 0]]
    assert batches.mask.tolist() == [[True, True], [True, True], [True, False]]
    even = batches.measures["even"].tolist()
    assert even == [[True, False], [True, False], [False, False]]


def test_image_set_needs_no_more_than_its_images():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    batches = metrics.image_set(images, np.zeros(3), 500, {})
    assert batches.images.shape == (1, 3, 2, 2, 1)
    assert batches.mask.all()


def dataset(labels):
    """Test images of one pixel that holds ten times the label."""
    labels = np.array(labels, np.int32)
    images = (10 * labels).astype(np.uint8).reshape(-1, 1, 1, 1)
    return Dataset("tiny", images, labels, images, labels, 5)


PIXEL = Trigger(jnp.ones((1, 1, 1), bool), jnp.ones((1, 1, 1)))
TEST_LABELS = [0, 1, 2, 0, 2, 3, 4, 2]


@pytest.mark.parametrize(
    ("victim", "pixels"), [(0, [0, 0]), (None, [0, 10, 0, 30, 40]), (1, [10])]
)
def test_triggered_images_are_those_of_the_victim_class(victim, pixels):
    sets = metrics.make_test_sets(
        dataset(TEST_LABELS),
        BackdoorTest(PIXEL, victim, 2),
        batch_size=8,
        any_source=True,
    )

    assert sets.clean.labels.ravel().tolist() == TEST_LABELS
    triggered = sets.triggered
    assert (triggered.labels[triggered.mask] == 2).all()
    pixels_of = lambda mask: triggered.images[mask].ravel().tolist()
    assert {name: pixels_of(mask) for name, mask in triggered.measures.items()} == {
        "backdoor": pixels,
        "any_source": [0, 10, 0, 30, 40],
        "all_sources": [10 * label for label in TEST_LABELS],
    }


def test_test_sets_of_a_clean_run_and_without_any_source():
    data = dataset(TEST_LABELS)
    sets = metrics.make_test_sets(data, None, batch_size=8, any_source=True)
    assert sets.triggered is None
    sets = metrics.make_test_sets(
        data, BackdoorTest(PIXEL, 0, 2), batch_size=8, any_source=False
    )
    assert sets.triggered.measures.keys() == {"backdoor"}
    assert sets.triggered.images.ravel().tolist() == [0, 0]  # nothing else


def pixel_model():
    """Says class 2 to a triggered pixel (1.0), else 0 below 0.03, else 1."""

    def apply(params, buffers, images, *, train, mask=None):
        assert train is False and mask.shape == images.shape[:1]
        value = images.reshape(-1)
        answer = jnp.where(value >= 1, 2, jnp.where(value < 0.03, 0, 1))
        return params * (jnp.arange(5) == answer[:, None]), buffers

    return Model("pixel", None, apply, apply, "fc", False)


def evaluate(labels, test, predict=None, threshold=None):
    sets = metrics.make_test_sets(dataset(labels), test, batch_size=3, any_source=True)
    return metrics.evaluate(
        pixel_model(),
        jnp.float32(9.0),
        {},
        sets,
        UNIT,
        test.trigger if test else None,
        threshold,
        predict,
    )


def test_evaluate_adds_up_batches_and_stamps_all_but_the_clean_set():
    found = evaluate(TEST_LABELS, BackdoorTest(PIXEL, 0, 2))
    assert {name: tuple(map(int, c[:2])) for name, c in found.items()} == {
        "clean": (8, 3),  # the two zeros and the one; never 2, 3, 4
        "backdoor": (2, 2),
        "any_source": (5, 5),
        "all_sources": (8, 8),
    }


def test_evaluate_without_a_trigger_leaves_the_images_alone():
    found = evaluate(TEST_LABELS, BackdoorTest(None, 0, 1))
    assert tuple(map(int, found["backdoor"][:2])) == (2, 0)
    # Of the images of class 0, 2, 3, 4 those above 0.03 are taken for a 1.
    assert tuple(map(int, found["any_source"][:2])) == (7, 5)


def test_evaluate_with_a_prediction_of_the_defence():
    refuse_bright = lambda images: jnp.where(images.reshape(-1) >= 0.03, -1, 0)
    found = evaluate(TEST_LABELS, None, refuse_bright)
    assert tuple(map(int, found["clean"][:2])) == (8, 2)


def test_no_image_of_the_victim_class():
    found = evaluate([1, 2, 3], BackdoorTest(PIXEL, 0, 2))
    assert int(found["backdoor"].total) == 0
    assert metrics.evaluation_row(found, None)["asr"] is None


# ------------------------------------------------------------------ batch statistics


def test_batch_statistics_are_those_of_each_test_batch():
    """The model says class 1 above the mean of the real images of its batch."""

    def apply(params, buffers, images, *, train, mask=None):
        value, weights = images.reshape(-1), mask.astype(jnp.float32)
        center = (value * weights).sum() / weights.sum() if train else params
        return jnp.stack([center, jnp.float32(0)]) + jnp.array([0.0, 1.0]) * (
            value[:, None]
        ), buffers

    model = Model("centred", None, apply, apply, "fc", True)
    sets = metrics.make_test_sets(
        dataset([1, 2, 4, 20, 21]), None, batch_size=3, any_source=False
    )
    # Which images are above the mean: 4 of the first batch, 21 of the second.
    sets = sets._replace(clean=sets.clean._replace(labels=jnp.ones((2, 3), jnp.int32)))
    right = {}
    for flag in (False, True):
        counts = metrics.evaluate(
            model,
            jnp.float32(10 / 255 + 1e-3),
            {},
            sets,
            UNIT,
            None,
            None,
            batch_statistics=flag,
        )
        right[flag] = int(counts["clean"].correct)

    assert right == {False: 4, True: 2}  # stored: all above 10
