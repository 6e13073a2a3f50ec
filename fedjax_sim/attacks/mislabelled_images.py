"""A few chosen images are to be taken for something else, all others are left alone."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    Poison,
    PoisonDecision,
)
from fedjax_sim.contracts.dataset import Partition, Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, checked
from fedjax_sim.data.normalize import normalize


@checked("attack")
def mislabelled_images(
    *, num_images: Count = 1, start_round: Count = 1, end_round: Count | None = None
) -> Attack:
    """Attackers train on the first test images with wrong labels, and nothing else.

    The targeted ("single image") attack of LeadFL's and FL-WBC's code:
    image i is to be taken for a class drawn with seed 100 + i. Success is the share of
    the images taken for it (`asr`), and the mean softmax probability of it
    (`target_confidence`). An attacker has as many samples as images, each an image of
    those in place of one of its own; outside the window these few are its own again.

    Args:
      num_images: how many of the test images.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, fewer test images than `num_images`, an
        empty window.
    """

    def chosen(spec: AttackSpec) -> tuple[np.ndarray, np.ndarray]:
        """The images, u8 [P, H, W, C], and the classes they are to be taken for."""
        if num_images > len(spec.test_images):
            raise InputError(
                f"config.attack.num_images = {num_images} must be at most the number "
                f"of test images, {len(spec.test_images)}"
            )
        labels = spec.test_labels[:num_images]
        return spec.test_images[:num_images], wrong_labels(labels, spec.num_classes)

    def poison(spec: AttackSpec) -> Poison:
        images, wrong = chosen(spec)
        value = normalize(jnp.asarray(images), spec.normalization)
        which = np.zeros(len(spec.labels), np.int32)
        for client in spec.malicious_ids:
            count = min(spec.partition.counts[client], num_images)
            own = spec.partition.indices[client, :count]
            which[own] = np.arange(len(own))
        taken_for = jnp.asarray(wrong)

        def decide(plan, sample_ids, labels, context):
            image = plan[sample_ids]
            poisoned = jnp.full(labels.shape, context.malicious)
            labels = jnp.where(poisoned, taken_for[image], labels)
            return PoisonDecision(poisoned, labels, image)

        return Poison(Trigger(jnp.ones(value.shape, bool), value), which, decide)

    def repartition(spec: AttackSpec) -> Partition:
        counts = spec.partition.counts.copy()
        few = np.minimum(counts[spec.malicious_ids], num_images)
        counts[spec.malicious_ids] = few
        return spec.partition._replace(counts=counts)

    def test(spec: AttackSpec) -> BackdoorTest:
        return BackdoorTest(None, None, None, chosen(spec))

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        repartition=repartition,
        test=test,
    )


def wrong_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns i32 [P]: for label i another class, drawn with seed 100 + i."""
    moves = [
        np.random.RandomState(100 + i).randint(1, num_classes)
        for i in range(len(labels))
    ]
    return ((labels + np.array(moves)) % num_classes).astype(np.int32)


ENTRY = Entry(
    mislabelled_images,
    paper="Bhagoji et al., ICML 2019; Sun et al., NeurIPS 2021 (code)",
)
