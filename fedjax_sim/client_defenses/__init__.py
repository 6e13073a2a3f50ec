"""Client-side defences, by name: what benign clients change in their training.

They work with every server rule and every attack.
"""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_sim.client_defenses.fl_wbc import fl_wbc
from fedjax_sim.client_defenses.ldp import ldp
from fedjax_sim.client_defenses.ldp_update import ldp_update
from fedjax_sim.client_defenses.leadfl import leadfl
from fedjax_sim.contracts.defense import ClientOptimizer, ClientRelease


class ClientDefenseEntry(NamedTuple):
    """A registered client-side defence: its factory and where it was published."""

    factory: Callable[..., ClientOptimizer | ClientRelease | None]
    paper: str
    traced: tuple[str, ...] = ()  # numbers that vary without a new compilation
    seam: str = "client_optimizer"  # the field of `Defense` that it takes


def none() -> None:
    """Benign clients run plain SGD."""


CLIENT_DEFENSES: dict[str, ClientDefenseEntry] = {
    "none": ClientDefenseEntry(none, "-"),
    "leadfl": ClientDefenseEntry(
        leadfl, "Zhu, Roos, Chen, ICML 2023", ("alpha", "clip")
    ),
    "fl_wbc": ClientDefenseEntry(fl_wbc, "Sun et al., NeurIPS 2021", ("scale",)),
    "ldp": ClientDefenseEntry(
        ldp, "Zhu, Roos, Chen, ICML 2023, public code", ("scale",)
    ),
    "ldp_update": ClientDefenseEntry(
        ldp_update,
        "Gaussian mechanism: Dwork, Roth 2014; clipping: McMahan et al., ICLR 2018",
        ("clip_norm", "noise_multiplier"),
        seam="client_release",
    ),
}
