"""What shapes each piece of a round, and what it is given: no more than it reads.

Whatever a piece is given is part of its program; what it need not know is left out, so
that more runs agree in it.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.attack import Attack
from fedjax_sim.experiment import program
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.experiment.sides import sides_of
from fedjax_sim.round import separate
from fedjax_sim.round.batches import TrainData
from fedjax_sim.round.federation import Parts, Sent
from fedjax_sim.round.state import FedState, Inputs


class Seen(NamedTuple):
    """What an evaluation reads of a state beside the model."""

    attack: bool
    rule: bool

    def of(self, state: FedState) -> FedState:
        """The state without the rest."""
        return FedState(
            round=state.round,
            params=state.params,
            buffers=state.buffers,
            server=(),
            defense=state.defense if self.rule else (),
            attack=state.attack if self.attack else (),
        )


ADAPTS = "adapt"  # the section of these keys of attack


class Identity:
    """What shapes the pieces of a run: parts of its `program.shape`."""

    def __init__(self, built: Experiment):
        self._values = program.shape(built.config)
        parts = built.parts
        # What the config does not say, or says in the section of a side.
        sizes = (parts.spec.population, parts.spec.cohort_size)
        self._common = [
            *(f"{k}={v}" for k, v in self._values.items() if _common(k)),
            *map(repr, (*sizes, parts.spec.num_malicious)),
            *map(repr, (parts.work, parts.strategy, parts.network.lowering)),
        ]

    def of(self, *sections: str, also: str = "") -> str:
        """The values that all sides share, and those of these sections."""
        own = [f"{k}={v}" for k, v in self._values.items() if _section(k) in sections]
        return json.dumps([*self._common, *own, also])


def _section(key: str) -> str:
    return ADAPTS if key.startswith("attack.adapt") else key.partition(".")[0]


def _common(key: str) -> bool:
    apart = ("attack", ADAPTS, "defense", "client_defense", "evaluation")
    return _section(key) not in (*apart, "checkpoint", "log")


def kind_of(attack: Attack) -> str:
    """What matters of an attack to whoever makes it adaptive."""
    kind = separate.adapts_trained(attack), "benign_updates" in attack.knowledge
    return repr(kind)


def not_adapted(built: Experiment) -> Parts:
    """The parts with the attack as it is without `config.attack.adapt`."""
    if built.config.attack.adapt == "none":
        return built.parts
    plain = built.config.attack.model_copy(update={"adapt": "none"})
    config = built.config.model_copy(update={"attack": plain})
    return built.parts._replace(sides=sides_of(config))


def of_server(state: FedState) -> FedState:
    """What the server's half reads of a state."""
    return state._replace(attack=(), clients=(), momentum=())


def of_attack(sent: Sent) -> Sent:
    return sent._replace(clients=(), momentum=())


def of_nobody(sent: Sent) -> Sent:
    return sent._replace(attack=(), clients=(), momentum=())


def only(inputs: Inputs, sections: Sequence[str]) -> Inputs:
    """The inputs with the options of these sides."""
    options = {
        key: value
        for key, value in inputs.hyper.options.items()
        if _section(key) in sections
    }
    return inputs._replace(hyper=inputs.hyper._replace(options=options))


def without_samples(data: TrainData) -> TrainData:
    """The data for whoever reads only how many samples each client has."""
    nothing: Any = ()
    return TrainData(nothing, nothing, nothing, data.counts, nothing)


def padded(inputs: Inputs) -> Inputs:
    """Lets clients have room for a power of two of samples, so that more runs agree."""
    width = inputs.data.indices.shape[1]
    room = 1 << (width - 1).bit_length()
    indices = np.pad(np.asarray(inputs.data.indices), [(0, 0), (0, room - width)])
    return inputs._replace(data=inputs.data._replace(indices=jnp.asarray(indices)))
