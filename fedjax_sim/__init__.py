"""Federated learning under poisoning attacks, simulated in JAX.

    from fedjax_sim import resolve, run

    code, summary = run(resolve({"defense": {"name": "droplet"}}), Path("runs/mine"))

The names below are the public ones; each is imported when it is first used. Where they
live, and what else there is, README's picture shows.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_sim.attacks import ATTACKS as ATTACKS
    from fedjax_sim.client_defenses import CLIENT_DEFENSES as CLIENT_DEFENSES
    from fedjax_sim.contracts.attack import Attack as Attack
    from fedjax_sim.contracts.client import ClientSide as ClientSide
    from fedjax_sim.contracts.config import Config as Config
    from fedjax_sim.contracts.dataset import Dataset as Dataset
    from fedjax_sim.contracts.defense import Cohort as Cohort
    from fedjax_sim.contracts.defense import Defense as Defense
    from fedjax_sim.contracts.defense import RoundContext as RoundContext
    from fedjax_sim.contracts.defense import Stage as Stage
    from fedjax_sim.contracts.defense import exclude as exclude
    from fedjax_sim.contracts.defense import included as included
    from fedjax_sim.contracts.entry import Entry as Entry
    from fedjax_sim.core.errors import InputError as InputError
    from fedjax_sim.defenses import DEFENSES as DEFENSES
    from fedjax_sim.defenses.parts.building import stateless as stateless
    from fedjax_sim.defenses.parts.pipeline import pipeline as pipeline
    from fedjax_sim.experiment.build import build as build
    from fedjax_sim.experiment.config import resolve as resolve
    from fedjax_sim.round.federation import round_step as round_step
    from fedjax_sim.runs.listener import Listener as Listener
    from fedjax_sim.runs.loop import run as run

_ROOMS = {
    "ATTACKS": "attacks",
    "CLIENT_DEFENSES": "client_defenses",
    "DEFENSES": "defenses",
    "Attack": "contracts.attack",
    "ClientSide": "contracts.client",
    "Cohort": "contracts.defense",
    "Config": "contracts.config",
    "Dataset": "contracts.dataset",
    "Defense": "contracts.defense",
    "Entry": "contracts.entry",
    "InputError": "core.errors",
    "Listener": "runs.listener",
    "RoundContext": "contracts.defense",
    "Stage": "contracts.defense",
    "build": "experiment.build",
    "exclude": "contracts.defense",
    "included": "contracts.defense",
    "pipeline": "defenses.parts.pipeline",
    "resolve": "experiment.config",
    "round_step": "round.federation",
    "run": "runs.loop",
    "stateless": "defenses.parts.building",
}

__all__ = sorted([*_ROOMS, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fedjax_sim")
    if name not in _ROOMS:
        raise AttributeError(f"module 'fedjax_sim' has no attribute '{name}'")
    return getattr(importlib.import_module(f"fedjax_sim.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
