"""Runs that share programs piece by piece: training, attack, rule, evaluation.

`runs.together` compiles a round as one program, for runs that differ in nothing else
than inputs. Here a round is the pieces of `round.separate`, each compiled once for all
runs to which it is common: a matrix of A attacks and D rules takes some A + D programs
in place of A x D. Between them the host is asked, some times in a round, which is
nothing beside the compilation where models are small.

The numbers are those of the whole round up to the rounding of another compilation.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.experiment.sides import with_factor
from fedjax_sim.round import federation, separate
from fedjax_sim.round.adversary import adversary
from fedjax_sim.round.state import FedState, Inputs, RoundReport
from fedjax_sim.runs.piece_inputs import (
    ADAPTS,
    Identity,
    Seen,
    kind_of,
    not_adapted,
    of_attack,
    of_nobody,
    of_server,
    only,
    padded,
    without_samples,
)
from fedjax_sim.runs.programs import Piece, Programs

PyTree = Any
# Seconds and microseconds on the host's clock after the training and the server.
Ends = tuple[tuple[int, int], tuple[int, int]]


def takes(built: Experiment) -> bool:
    """Whether a run can be carried out in pieces."""
    return built.twin is None and separate.separable(built.parts)


class Separate:
    """One run in pieces; stands where `runs.together.Together` does.

    States and what the functions return have no axis of runs.

    Args:
      built: the run, of those that `takes`.
      programs: of the process.
      clock_origin: see `Together`.
    """

    seconds = 0.0

    def __init__(
        self, built: Experiment, programs: Programs, clock_origin: float | None
    ):
        self.origin, self._programs, self._built = clock_origin, programs, built
        self._parts = not_adapted(built)
        attack, rule, _ = self._parts.sides({})
        self._attack = attack
        self._adapts = built.config.attack.adapt != "none"
        self._trains = not separate.trains_as_benign(attack)
        self._knows = separate.knows_rule(attack)
        self._reaches = separate.reaches_clients(rule)
        self._sees = Seen(attack.triggers is not None, rule.predict is not None)
        targeted = built.test_sets.triggered is not None

        # What shapes each piece, and what it is given.
        inputs = padded(built.inputs)._replace(start=None)
        blind = inputs._replace(data=without_samples(inputs.data))
        rootless = blind._replace(root=None)
        whose = Identity(built)
        side = lambda name, wanted: [name] if wanted else []
        of_rule = side("defense", self._reaches)

        sides = ["client_defense", *of_rule]
        self._start = whose.of(*sides), only(rootless, sides)
        sides = [*sides, *side("attack", self._trains)]
        self._clients = whose.of(*sides), only(inputs._replace(root=None), sides)
        sides = ["attack", *side("defense", self._knows)]
        given = blind if self._knows else rootless
        self._attackers = whose.of(*sides), only(given, sides)
        self._server = whose.of("defense"), only(blind, ["defense"])
        self._adapting = whose.of("defense", ADAPTS, also=kind_of(attack))
        sides = [*side("attack", targeted), *side("defense", self._sees.rule)]
        adaptive = side(ADAPTS, targeted and self._adapts)
        evaluated = whose.of("evaluation", *sides, *adaptive)
        self._evaluation = evaluated, only(rootless, sides)

    @property
    def identities(self) -> set[tuple[str, str]]:
        """(name, identity) of each piece, as far as the config decides it."""
        found = {
            ("start", self._start[0]),
            ("clients", self._clients[0]),
            ("server", self._server[0]),
            ("evaluation", self._evaluation[0]),
        }
        if separate.sends(self._attack):
            found.add(("attack", self._attackers[0]))
        if self._adapts:
            found.add(("adapt", self._adapting))
        return found

    # The interface of `Together`.

    def of(self, states: PyTree, k: int) -> PyTree:
        """The states of the k-th run, which is the only one."""
        del k
        return states

    def first_states(self, restore: Sequence[Callable[[PyTree], PyTree]]) -> PyTree:
        """The state before the first round, or what `restore` makes of it."""
        server = separate.without_clients(self._parts)
        identity, given = self._start
        given = given._replace(start=self._built.inputs.start)
        model, clients, momentum = self._run(
            "start", identity, self._client_start, given
        )
        identity, given = self._server
        state = self._run(
            "start server",
            identity,
            partial(federation.init, server),
            given._replace(start=model),
        )
        own = self._built.parts.sides(self._built.inputs.hyper.options).attack
        attack = adversary(own, None).init(self._parts.attack_spec)
        state = state._replace(attack=attack, clients=clients, momentum=momentum)
        (restored,) = restore
        (state,) = restored((state,))
        self._eligible = self._run(
            "start eligible",
            identity,
            partial(federation.eligible, server),
            of_server(state),
            given,
        )
        return (state,)

    def compile(self, states: PyTree, capacity: int) -> tuple[Callable, Callable]:
        """Returns `step(states, rounds i32 [1])` and `evaluate(states)`, compiled."""
        del capacity
        self._prepare(states[0])

        def step(states: PyTree, counts: np.ndarray) -> tuple[PyTree, PyTree]:
            state, reports, clock = states[0], [], []
            first = int(state.round) + 1
            for index in range(first, first + int(counts[0])):
                state, report, ends = self._round(state, index)
                reports.append(report)
                clock.append(ends)
            jax.block_until_ready(state.params)
            reports = jax.device_get(reports)
            stacked = jax.tree.map(lambda *own: np.stack(own)[None], *reports)
            return (state,), (stacked, np.array([clock], np.int32))

        def evaluate(states: PyTree) -> list[PyTree]:
            (state,), (identity, given) = states, self._evaluation
            shown = self._sees.of(state)
            sets, function = self._built.test_sets, self._built.evaluate
            found = self._run("evaluation", identity, function, shown, given, sets)
            return [jax.device_get(found)]

        return step, evaluate

    # A round.

    def _round(self, state: FedState, index: int) -> tuple[FedState, RoundReport, Ends]:
        inner, factor = state.attack if self._adapts else (state.attack, None)
        meeting, trained = self._train.call(*self._met(state, index, inner))
        if not self._trains:
            trained = trained._replace(attack=inner)
        ends = self._read(trained.losses)
        sent, told = trained, {}
        if self._send is not None:
            sent, told = self._send.call(
                self._known(state), self._attackers[1], meeting, of_attack(trained)
            )
        attack = sent.attack
        if self._adapt is not None:
            sent, found = self._adapt.call(
                of_server(state),
                self._server[1],
                meeting,
                of_attack(trained)._replace(attack=factor),
                sent.updates,
            )
            attack, told = (attack, sent.attack), {**told, **found}
        after, report, self._eligible = self._judge.call(
            of_server(state), self._server[1], meeting, of_nobody(sent)
        )
        after = after._replace(
            attack=attack, clients=trained.clients, momentum=trained.momentum
        )
        report = report._replace(attack=told)
        return after, report, (ends, self._read(after.params))

    def _read(self, array: Array) -> tuple[int, int]:
        """The host's clock, (s, us), once `array` is known, if there is a clock."""
        if self.origin is None:
            return 0, 0
        jax.block_until_ready(array)
        elapsed = time.monotonic() - self.origin
        return int(elapsed), int(elapsed % 1 * 1e6)

    def _prepare(self, state: FedState) -> None:
        """Gets the programs of a round, by the shapes that they hand on."""
        parts, plain = self._parts, self._attack
        inner, factor = state.attack if self._adapts else (state.attack, None)
        own = parts if self._reaches else separate.without_rule(parts)
        train = separate.clients if self._trains else separate.clients_alone
        given = self._met(state, 1, inner)
        self._train = self._get(
            "clients", self._clients[0], partial(train, own), *given
        )
        meeting, trained = self._train.gives
        if not self._trains:
            trained = trained._replace(attack=inner)
        sent = trained
        self._send = self._adapt = None
        if separate.sends(plain):
            with_attack = parts if self._knows else separate.without_rule(parts)
            self._send = self._get(
                "attack",
                self._attackers[0],
                partial(separate.attack, with_attack),
                self._known(state),
                self._attackers[1],
                meeting,
                of_attack(trained),
            )
            sent, _ = self._send.gives
        server = separate.without_clients(parts)
        if self._adapts:
            factored = lambda attack: with_factor(self._built.config, attack)
            self._adapt = self._get(
                "adapt",
                self._adapting,
                partial(separate.adapt, server, plain=plain, adapted=factored),
                of_server(state),
                self._server[1],
                meeting,
                of_attack(trained)._replace(attack=factor),
                sent.updates,
            )
            sent, _ = self._adapt.gives
        self._judge = self._get(
            "server",
            self._server[0],
            partial(separate.server, server),
            of_server(state),
            self._server[1],
            meeting,
            of_nobody(sent),
        )

    def _met(self, state: FedState, index: int, inner: PyTree) -> tuple[PyTree, ...]:
        """What the training is given; `inner` is the state of the plain attack."""
        rule = state.defense if self._reaches else self._eligible
        state = state._replace(server=(), defense=rule)
        if self._trains:
            return state._replace(attack=inner), self._clients[1]
        active: Any = True
        if self._attack.active is not None:
            active = self._attack.active(jnp.asarray(np.int32(index)))
        return np.asarray(active), state._replace(attack=()), self._clients[1]

    def _known(self, state: FedState) -> FedState:
        """What attackers may read of a state."""
        state = of_server(state)._replace(server=())
        return state if self._knows else state._replace(defense=())

    def _client_start(self, inputs: Inputs) -> PyTree:
        nobody = separate.without_attack(separate.without_rule(self._parts))
        state = federation.init(nobody, inputs)
        model = GlobalModel(state.params, state.buffers)
        return model, state.clients, state.momentum

    def _get(self, name: str, identity: str, function: Callable, *given: Any) -> Piece:
        return self._programs.piece(name, identity, function, given)

    def _run(self, name: str, identity: str, function: Callable, *given: Any) -> Any:
        return self._get(name, identity, function, *given).call(*given)
