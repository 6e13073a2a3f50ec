"""Label flipping: every label becomes another one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, AttackSpec, Poison, PoisonDecision
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, checked


@checked("attack")
def label_flip(
    *, offset: int | None = 1, start_round: Count = 1, end_round: Count | None = None
) -> Attack:
    """Label flipping: y becomes (y + offset) mod K in all data of the attackers.

    Fung, Yoon, Beschastnikh, "Mitigating Sybils in Federated Learning Poisoning",
    2018, as in FedREDefense's code: training is honest otherwise, and not scaled.

    Args:
      offset: added to the label, modulo K; None draws one of 1 to K - 1 for each batch
        (LeadFL's code).
      start_round, end_round: flip from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an offset that is a multiple of K, an empty window.
    """

    def poison(spec: AttackSpec) -> Poison:
        classes = spec.num_classes
        if offset is None:
            draw = lambda key: jax.random.randint(key, (), 1, classes)
            return relabelled(lambda labels, key: (labels + draw(key)) % classes)
        if offset % classes == 0:
            raise InputError(
                f"config.attack.offset = {offset} must not be a multiple of the number "
                f"of classes, {classes}: labels would stay as they are"
            )
        return relabelled(lambda labels, key: (labels + offset) % classes)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
    )


def relabelled(change: Callable[[Array, Array], Array]) -> Poison:
    """Returns the poison that changes labels and no image.

    Args:
      change: (labels i32 [B], key) -> labels i32 [B]; each batch has another key.
    """

    def decide(plan, sample_ids, labels, context):
        del plan
        # No key of the run reaches a batch; who trains when on what tells them apart.
        key = jax.random.key(0)
        for fact in (context.client_id, context.round, context.epoch, sample_ids[0]):
            key = jax.random.fold_in(key, fact)
        flipped = jnp.where(context.malicious, change(labels, key), labels)
        # Nothing is stamped: the images are augmented as usual.
        return PoisonDecision(jnp.zeros(labels.shape, bool), flipped, jnp.int32(0))

    return Poison(None, (), decide)


ENTRY = Entry(
    label_flip,
    paper="Fung et al. 2018",
)
