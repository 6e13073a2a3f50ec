"""What is measured of a model, defined once. Accuracies and rates are percentages.

* MTA, main-task accuracy: share of the clean test set classified as labelled.
* ASR, attack success rate: share of the triggered images of the victim class that are
  classified as the target; with no victim class, of all classes but the target.
  `any_source` adds the same over all classes but the target, and over all classes
  with the target included (the convention of LeadFL).
* backdoor loss, target confidence: mean cross-entropy of the images of the ASR against
  the target, and mean softmax probability of it; they move while the ASR is still 0.
* retained, conditional MTA/ASR: share of images whose largest softmax exceeds the
  low-confidence threshold, and the accuracy among them (0 if there are none).

Who was flagged: `metrics.detection`; how rates move over rounds: `metrics.over_rounds`.
Sources: Syros et al. 2025 (DROP), section 5; Zhu, Roos, Chen 2023 (LeadFL), its code.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from fedjax_sim.contracts.attack import BackdoorTest
from fedjax_sim.contracts.dataset import Dataset, Normalization, Trigger
from fedjax_sim.contracts.model import Model
from fedjax_sim.core.compiled import compiled
from fedjax_sim.data.normalize import normalize
from fedjax_sim.data.triggers import stamp

PyTree = Any


class Counts(NamedTuple):
    """Sums over images, so that batches add up."""

    total: Array  # i32 []
    correct: Array
    retained: Array  # confident enough
    retained_correct: Array
    loss: Array  # f32 [], summed cross-entropy
    confidence: Array  # f32 [], summed softmax probability of the right class


@compiled("threshold")
def count_predictions(
    logits: Array, labels: Array, mask: Array, threshold: float | None
) -> Counts:
    """Counts right and confident answers.

    Args:
      logits: f32 [B, C].
      labels: i32 [B], the class that counts as right.
      mask: bool [B], which images count.
      threshold: low-confidence threshold; None retains everything.
    """
    correct = (logits.argmax(-1) == labels) & mask
    confident = mask
    if threshold is not None:
        confident = mask & (jax.nn.softmax(logits).max(-1) > threshold)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return Counts(
        total=mask.sum(),
        correct=correct.sum(),
        retained=confident.sum(),
        retained_correct=(correct & confident).sum(),
        loss=jnp.where(mask, losses, 0.0).sum(),
        confidence=jnp.where(mask, jnp.exp(-losses), 0.0).sum(),
    )


def percent(part: Array | float, whole: Array | float) -> float:
    """100 part / whole, and 0 of nothing is 0."""
    return 100.0 * float(part) / float(whole) if whole else 0.0


class ImageSet(NamedTuple):
    """Images to classify, in equal batches; S batches of B."""

    images: Array  # u8 [S, B, H, W, C]
    labels: Array  # i32 [S, B], the class that counts as right
    mask: Array  # bool [S, B], False = padding
    measures: dict[str, Array]  # bool [S, B] by measure: the images it is taken over


class TestSets(NamedTuple):
    """The sets of one evaluation; what is measured on them is named by `measures`."""

    clean: ImageSet  # "clean"
    # Labelled as the target. "backdoor": the images of the victim class; with
    # `any_source` also "any_source": of all classes but the target, and "all_sources".
    triggered: ImageSet | None  # None: nothing to be triggered


def image_set(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    measures: Mapping[str, np.ndarray],
) -> ImageSet:
    """Cuts images into batches, the last one padded.

    Args:
      images: u8 [T, H, W, C].
      labels: [T], the class that counts as right.
      batch_size: at most so many at a time.
      measures: bool [T] by name, the images a measure is taken over.
    """
    batch_size = min(batch_size, max(len(images), 1))
    count = -(-len(images) // batch_size)
    missing = count * batch_size - len(images)

    def batches(x):
        padded = np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return jnp.asarray(padded.reshape(count, batch_size, *x.shape[1:]))

    return ImageSet(
        batches(images),
        batches(labels.astype(np.int32)),
        batches(np.ones(len(images), bool)),
        {name: batches(counted) for name, counted in measures.items()},
    )


def make_test_sets(
    dataset: Dataset, test: BackdoorTest | None, *, batch_size: int, any_source: bool
) -> TestSets:
    """Builds the sets that a run evaluates on; no image is classified twice."""
    images, labels = dataset.test_images, dataset.test_labels
    every = np.ones(len(labels), bool)
    clean = image_set(images, labels, batch_size, {"clean": every})
    if test is None:
        return TestSets(clean, None)
    if test.images is not None:
        chosen, targets = test.images
        every = np.ones(len(targets), bool)
        return TestSets(
            clean, image_set(chosen, targets, batch_size, {"backdoor": every})
        )
    others = labels != test.target_class
    victims = others if test.victim_class is None else labels == test.victim_class
    measures = {"backdoor": victims}
    if any_source:
        measures |= {"any_source": others, "all_sources": every}
    used = every if any_source else victims
    targets = np.full(used.sum(), test.target_class)
    return TestSets(
        clean,
        image_set(
            images[used],
            targets,
            batch_size,
            {name: counted[used] for name, counted in measures.items()},
        ),
    )


def evaluate(
    model: Model,
    params: PyTree,
    buffers: PyTree,
    sets: TestSets,
    normalization: Normalization,
    trigger: Trigger | None,
    threshold: float | None,
    predict: Callable[[Array], Array] | None = None,
    batch_statistics: bool = False,
) -> dict[str, Counts]:
    """Classifies every set with the global model in evaluation mode; jittable.

    Args:
      model, params, buffers: the global model.
      sets: what to classify.
      normalization: of the images.
      trigger: of `sets.triggered`; None leaves the images as they are.
      threshold: low-confidence threshold.
      predict: `images f32 [B, H, W, C] -> i32 [B]` replaces the argmax (a defence's
        vote or refusal).
      batch_statistics: let BatchNorm normalise with each test batch, as in training.

    Returns:
      Counts by the name of the measure.
    """

    def classify(images, trigger):
        def batch(part):
            x = normalize(part.images, normalization)
            if trigger is not None:
                x = stamp(x, trigger, jnp.ones(x.shape[0], bool))
            logits, _ = model.apply(
                params, buffers, x, train=batch_statistics, mask=part.mask
            )
            counts = {
                name: count_predictions(logits, part.labels, mask, threshold)
                for name, mask in part.measures.items()
            }
            if predict is not None:
                right = predict(x) == part.labels
                for name, mask in part.measures.items():
                    correct = (right & mask).sum()
                    counts[name] = counts[name]._replace(correct=correct)
            return counts

        return jax.tree.map(lambda x: x.sum(0), lax.map(batch, images))

    counts = classify(sets.clean, None)
    if sets.triggered is not None:
        counts |= classify(sets.triggered, trigger)
    return counts


def evaluation_row(
    counts: dict[str, Counts], threshold: float | None
) -> dict[str, float | None]:
    """Turns counts into the named percentages of a metrics row."""
    clean = counts["clean"]
    row: dict[str, float | None] = {
        "mta": percent(clean.correct, clean.total),
        "test_loss": float(clean.loss) / max(int(clean.total), 1),
    }
    names = {
        "backdoor": "asr",
        "any_source": "asr_any_source",
        "all_sources": "asr_all",
    }
    for name, key in names.items():
        if name in counts:
            # No image of the victim class in the test set: the rate is unknown.
            total = int(counts[name].total)
            row[key] = percent(counts[name].correct, total) if total else None
            if name == "backdoor":
                loss, sure = float(counts[name].loss), float(counts[name].confidence)
                row["backdoor_loss"] = loss / total if total else None
                row["target_confidence"] = 100 * sure / total if total else None
    if threshold is not None:
        row["retained"] = percent(clean.retained, clean.total)
        row["conditional_mta"] = percent(clean.retained_correct, clean.retained)
        if "backdoor" in counts:
            hit = counts["backdoor"]
            row["retained_asr"] = percent(hit.retained, hit.total)
            row["conditional_asr"] = percent(hit.retained_correct, hit.retained)
    return row
