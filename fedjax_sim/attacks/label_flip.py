"""Label flipping: every label becomes the next one."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.base import Attack, AttackSpec, Poison, PoisonDecision
from fedjax_sim.attacks.options import active_rounds


def label_flip(*, start_round: int = 1, end_round: int | None = None) -> Attack:
    """Label flipping: y becomes (y + 1) mod K in all data of the attackers.

    Fung, Yoon, Beschastnikh, "Mitigating Sybils in Federated Learning Poisoning",
    2018, as in [FedREDefense] 2.8: training is honest otherwise, and not scaled.

    Args:
      start_round, end_round: flip from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an empty window.
    """

    def poison(spec: AttackSpec) -> Poison:
        return relabelled(lambda labels: (labels + 1) % spec.num_classes)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
    )


def relabelled(change: Callable[[Array], Array]) -> Poison:
    """Returns the poison that changes labels (i32 [B] -> i32 [B]) and no image."""

    def decide(plan, sample_ids, labels, context):
        del plan, sample_ids
        flipped = jnp.where(context.malicious, change(labels), labels)
        # Nothing is stamped: the images are augmented as usual.
        return PoisonDecision(jnp.zeros(labels.shape, bool), flipped, jnp.int32(0))

    return Poison(None, (), decide)
