"""Targeted label flipping: one class is taught as another."""

import jax.numpy as jnp

from fedjax_sim.attacks.label_flip import relabelled
from fedjax_sim.attacks.parts.options import active_rounds, require_classes
from fedjax_sim.contracts.attack import Attack, AttackSpec, BackdoorTest, Poison
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Natural, checked


@checked("attack")
def targeted_label_flip(
    *,
    victim_class: Natural = 0,
    target_class: Natural = 2,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Targeted label flipping: the victim class is labelled as the target.

    Tolpegin, Truex, Gursoy, Liu, "Data Poisoning Attacks Against Federated Learning
    Systems", ESORICS 2020, as in FedREDefense's code. Success is the share of
    clean test images of the victim class that are classified as the target.

    Args:
      victim_class: class to relabel.
      target_class: the label it gets.
      start_round, end_round: flip from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: a class outside the data set, victim equal to target, an empty window.
    """
    if victim_class == target_class:
        raise InputError(
            f"config.attack.victim_class = {victim_class} must differ from "
            "config.attack.target_class"
        )

    def check(spec: AttackSpec) -> None:
        require_classes(spec, victim_class=victim_class, target_class=target_class)

    def poison(spec: AttackSpec) -> Poison:
        check(spec)
        return relabelled(
            lambda labels, key: jnp.where(labels == victim_class, target_class, labels)
        )

    def test(spec: AttackSpec) -> BackdoorTest:
        check(spec)
        return BackdoorTest(None, victim_class, target_class)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        test=test,
    )


ENTRY = Entry(
    targeted_label_flip,
    paper="Tolpegin et al., ESORICS 2020",
)
