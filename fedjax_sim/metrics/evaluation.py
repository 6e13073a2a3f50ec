"""What is measured, defined once. Accuracies and rates are percentages.

* MTA, main-task accuracy: share of the clean test set classified as labelled.
* ASR, attack success rate: share of the triggered images of the victim class that are
  classified as the target; with no victim class, of all classes but the target.
  `any_source` adds the same over all classes but the target, and over all classes
  with the target included (the convention of LeadFL).
* backdoor loss, target confidence: mean cross-entropy of the images of the ASR against
  the target, and mean softmax probability of it; they move while the ASR is still 0.
* retained, conditional MTA/ASR: share of images whose largest softmax exceeds the
  low-confidence threshold, and the accuracy among them (0 if there are none).
* consistency: the lowest ASR of the rounds in which the MTA is acceptable.
* detection: a client is *positive* if it is malicious and attacks in this round, and
  *flagged* if its weight in the aggregate is 0.

Sources: Syros et al. 2025 (DROP), 1.6 and 2.5 of its protocol; Xie, Fang, Gong 2024
(FedREDefense), section 5.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from fedjax_sim.contracts.attack import BackdoorTest
from fedjax_sim.data.dataset import Dataset
from fedjax_sim.data.normalize import Normalization, normalize
from fedjax_sim.data.triggers import Trigger, stamp
from fedjax_sim.models import Model

PyTree = Any


class Counts(NamedTuple):
    """Sums over images, so that batches add up."""

    total: Array  # i32 []
    correct: Array
    retained: Array  # confident enough
    retained_correct: Array
    loss: Array  # f32 [], summed cross-entropy
    confidence: Array  # f32 [], summed softmax probability of the right class


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


def percent(part: float, whole: float) -> float:
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
    predict=None,
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


class Detection(NamedTuple):
    """Sums over clients and rounds: who was flagged, who was malicious."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0

    def __add__(self, other: "Detection") -> "Detection":  # type: ignore[override]
        return Detection(*(a + b for a, b in zip(self, other, strict=True)))

    def row(self) -> dict[str, float | int | None]:
        """The counts, and the rates in percent (None where undefined)."""
        tp, fp, fn, tn = self

        def rate(part, whole):
            return 100.0 * part / whole if whole else None

        return {
            "true_positives": tp,
            "false_positives": fp,
            "false_negatives": fn,
            "true_negatives": tn,
            "detection_accuracy": rate(tp + tn, sum(self)),
            "false_positive_rate": rate(fp, fp + tn),
            "false_negative_rate": rate(fn, fn + tp),
        }


def detection(flagged: np.ndarray, malicious: np.ndarray, present: np.ndarray):
    """Counts one round; bool [n] each. Returns a `Detection`."""
    return Detection(
        int((flagged & malicious & present).sum()),
        int((flagged & ~malicious & present).sum()),
        int((~flagged & malicious & present).sum()),
        int((~flagged & ~malicious & present).sum()),
    )


def detection_history(
    rounds: Sequence[Mapping[str, Any]],
    malicious: np.ndarray,
    expelled: np.ndarray | None,
) -> dict[str, float | None]:
    """The detection metrics of a whole run (FedREDefense, section 5.1 and B.3).

    Args:
      rounds: rows of rounds.jsonl.
      malicious: bool [N], the fixed set.
      expelled: bool [N], who may not take part any more; None: the defence expels
        nobody, its labels are those of each round.

    Returns:
      dacc, fpr, fnr: of the final labels over the population (None without expulsion);
      adacc, afpr, afnr: of the labels of each round, averaged over rounds;
      aar: rounds in which a malicious client was part of the aggregate, averaged over
      the malicious clients; aoi: outer iterations of a client in a round, averaged over
      clients, then rounds (None for defences that do not iterate);
      reconstruction_error_benign, ..._malicious, and with _std: mean and standard
      deviation over all clients of a kind in all rounds (Table 10; None for defences
      that do not reconstruct; an error that is no number is left out).
    """
    ids = np.flatnonzero(malicious)
    each, counted, iterations = [], 0, []
    errors: dict[str, list[float]] = {"benign": [], "malicious": []}
    for row in rounds:
        clients = np.array(row["clients"], int)
        excluded, bad = np.isin(clients, row["excluded"]), np.isin(clients, ids)
        each.append(detection(excluded, bad, np.ones(len(clients), bool)).row())
        counted += int((bad & ~excluded).sum())
        if "iterations" in row["scores"] and len(clients):
            iterations.append(np.mean(row["scores"]["iterations"]))
        if "reconstruction_error" in row["scores"]:
            measured = row["scores"]["reconstruction_error"]
            for error, attacker in zip(measured, bad, strict=True):
                if error is not None:
                    errors["malicious" if attacker else "benign"].append(error)
    names = {
        "dacc": "detection_accuracy",
        "fpr": "false_positive_rate",
        "fnr": "false_negative_rate",
    }
    final = dict.fromkeys(names)
    if expelled is not None:
        row = detection(expelled, malicious, np.ones(len(malicious), bool)).row()
        final = {short: row[name] for short, name in names.items()}

    def mean(values):
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return {
        **final,
        **{
            f"a{short}": mean(row[name] for row in each)
            for short, name in names.items()
        },
        "aar": counted / len(ids) if len(ids) else None,
        "aoi": mean(iterations),
        **_spread(errors),
    }


def _spread(errors: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Mean and standard deviation of the reconstruction errors, by kind of client."""
    found: dict[str, float | None] = {}
    for kind, values in errors.items():
        name = f"reconstruction_error_{kind}"
        found[name] = float(np.mean(values)) if values else None
        found[f"{name}_std"] = float(np.std(values)) if values else None
    return found


class Mitigation(NamedTuple):
    """How fast a backdoor fades after a burst (LeadFL).

    Attributes:
      starts: first rounds (from 0) of the episodes above the threshold.
      lengths: rounds each of them lasted; None: it never ended.
      mean_rounds: average length of those that ended; None if none did.
      by_phase: average success by position in the cycle.
      recovery_rate: 1 / mean_rounds.
      recovery_slope: fall of `by_phase` from its highest point to its last, in
        percentage points per round; None if it is highest at the end.
    """

    starts: list[int]
    lengths: list[int | None]
    mean_rounds: float | None
    by_phase: list[float]
    recovery_rate: float | None
    recovery_slope: float | None


def mitigation(
    success: np.ndarray, *, threshold: float = 50.0, cycle: int = 10
) -> Mitigation:
    """Finds the episodes in which the attack success exceeds `threshold`.

    Zhu, Roos, Chen 2023 (LeadFL), mitigation rounds; definition as in the report of
    Guthmann and Tan: maximal runs above the threshold.

    Args:
      success: f32 [T], percent, one per round.
      threshold: percent.
      cycle: rounds of a burst and its pause.
    """
    above = np.concatenate([[False], np.asarray(success) > threshold, [False]])
    starts = np.flatnonzero(~above[:-1] & above[1:])
    ends = np.flatnonzero(above[:-1] & ~above[1:])
    lengths = [
        None if end == len(success) else int(end - start)
        for start, end in zip(starts, ends, strict=True)
    ]
    finished = [length for length in lengths if length is not None]
    mean_rounds = float(np.mean(finished)) if finished else None
    by_phase = [
        float(np.mean(success[phase::cycle]))
        for phase in range(min(cycle, len(success)))
    ]
    pause = len(by_phase) - 1 - int(np.argmax(by_phase))
    return Mitigation(
        starts=starts.tolist(),
        lengths=lengths,
        mean_rounds=mean_rounds,
        by_phase=by_phase,
        recovery_rate=1 / mean_rounds if mean_rounds else None,
        recovery_slope=(max(by_phase) - by_phase[-1]) / pause if pause else None,
    )


class Consistency(NamedTuple):
    """How steadily an attack succeeds while the model is of use (DROP)."""

    rounds: int  # |K|, evaluated rounds with an acceptable MTA
    least_asr: float | None  # lowest ASR of them, percent; None if there are none


def consistency(
    mta: Sequence[float], asr: Sequence[float], least_mta: float
) -> Consistency:
    """The left side of [DROP] equations 2 and 3; a round in between may be worse.

    Args:
      mta, asr: percent, one per evaluated round.
      least_mta: lambda, the MTA from which on a round counts.
    """
    counted = [a for m, a in zip(mta, asr, strict=True) if m >= least_mta]
    return Consistency(len(counted), min(counted, default=None))
