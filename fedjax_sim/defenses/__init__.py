"""Defences: what a server does with the updates of a round.

`DEFENSES` is the table from the name that a config gives to the factory.
"""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_sim.defenses.base import Defense
from fedjax_sim.defenses.droplet import droplet
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.defenses.median import median
from fedjax_sim.defenses.multikrum import multikrum


class DefenseEntry(NamedTuple):
    """A defence by name.

    Attributes:
      factory: takes keyword-only hyper-parameters and returns a `Defense`.
      paper: where the rule was published.
      oracle: what it is told by default that no real server could know, or "none".
    """

    factory: Callable[..., Defense]
    paper: str
    oracle: str


DEFENSES: dict[str, DefenseEntry] = {
    "fedavg": DefenseEntry(
        factory=fedavg,
        paper="McMahan et al., AISTATS 2017",
        oracle="none",
    ),
    "median": DefenseEntry(
        factory=median,
        paper="Yin et al., ICML 2018",
        oracle="none",
    ),
    "multikrum": DefenseEntry(
        factory=multikrum,
        paper="Blanchard et al., NeurIPS 2017",
        oracle="the number of malicious clients, unless num_byzantine is given",
    ),
    "droplet": DefenseEntry(
        factory=droplet,
        paper="Syros et al. 2025 (DROP), sections 4.1 and 4.2",
        oracle="none",
    ),
}
