"""The attacks, by name."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.base import Attack


class AttackEntry(NamedTuple):
    """A registered attack: its factory and where it was published."""

    factory: Callable[..., Attack]
    paper: str


def none() -> Attack:
    """No attack: the malicious clients train as the benign ones do."""
    return Attack(knowledge=())


ATTACKS: dict[str, AttackEntry] = {
    "none": AttackEntry(none, "-"),
    "backdoor": AttackEntry(
        backdoor, "Gu et al. 2017; Chen et al. 2017; Syros et al. 2025 (DROP), 2.2"
    ),
}
