"""Runs that share programs piece by piece: training, attack, rule, evaluation.

`runs.together` compiles a round as one program, for runs that differ in nothing else
than inputs. Here a round is the pieces of `round.separate`, each compiled once for all
runs to which it is common: a matrix of A attacks and D rules takes some A + D programs
in place of A x D. Between them the host is asked, some times in a round, which is
nothing beside the compilation where models are small.

The numbers are those of the whole round up to the rounding of another compilation.
"""

import json
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.compiled import compiler_options
from fedjax_sim.experiment import program
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.experiment.sides import sides_of, with_factor
from fedjax_sim.round import federation, separate
from fedjax_sim.round.adversary import adversary
from fedjax_sim.round.batches import TrainData
from fedjax_sim.round.federation import Parts, Sent
from fedjax_sim.round.state import FedState, Inputs, RoundReport

PyTree = Any
MOST_PROGRAMS = 1000  # that are kept; some MiB each

# Seconds and microseconds on the host's clock after the training and the server.
Ends = tuple[tuple[int, int], tuple[int, int]]


class Piece(NamedTuple):
    """A compiled function, and the shapes of what it returns."""

    call: Callable[..., Any]
    gives: PyTree


class Programs:
    """What this process has compiled, for all runs that come.

    Attributes:
      compiled: how many programs so far.
    """

    def __init__(self) -> None:
        self._pieces: dict[Hashable, Piece] = {}
        self.compiled = 0

    def piece(
        self, name: str, identity: str, function: Callable, given: Sequence[PyTree]
    ) -> Piece:
        """Returns a pure function, compiled.

        Args:
          name: of the piece.
          identity: all that shapes it beside what it is given.
          function: the piece.
          given: its arguments, or their shapes.
        """
        leaves, structure = jax.tree.flatten(tuple(given))
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        key = name, identity, structure, shapes
        found = self._pieces.pop(key, None)
        if found is None:
            options = compiler_options(
                jax.default_backend(), once=name.startswith("start")
            )
            traced = jax.jit(function, compiler_options=options).trace(*given)
            found = Piece(traced.lower().compile(), traced.out_info)
            self.compiled += 1
        self._pieces[key] = found  # the last used is the last to go
        if len(self._pieces) > MOST_PROGRAMS:
            del self._pieces[next(iter(self._pieces))]
        return found


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
        self._parts = _not_adapted(built)
        attack, rule, _ = self._parts.sides({})
        self._attack = attack
        self._adapts = built.config.attack.adapt != "none"
        self._trains = not separate.trains_as_benign(attack)
        self._knows = separate.knows_rule(attack)
        self._reaches = separate.reaches_clients(rule)
        self._sees = Seen(attack.triggers is not None, rule.predict is not None)
        targeted = built.test_sets.triggered is not None

        # What shapes each piece, and what it is given.
        inputs = _padded(built.inputs)._replace(start=None)
        blind = inputs._replace(data=_without_samples(inputs.data))
        rootless = blind._replace(root=None)
        whose = _Identity(built)
        side = lambda name, wanted: [name] if wanted else []
        of_rule = side("defense", self._reaches)

        sides = ["client_defense", *of_rule]
        self._start = whose.of(*sides), _only(rootless, sides)
        sides = [*sides, *side("attack", self._trains)]
        self._clients = whose.of(*sides), _only(inputs._replace(root=None), sides)
        sides = ["attack", *side("defense", self._knows)]
        given = blind if self._knows else rootless
        self._attackers = whose.of(*sides), _only(given, sides)
        self._server = whose.of("defense"), _only(blind, ["defense"])
        self._adapting = whose.of("defense", ADAPTS, also=_kind(attack))
        sides = [*side("attack", targeted), *side("defense", self._sees.rule)]
        adaptive = side(ADAPTS, targeted and self._adapts)
        evaluated = whose.of("evaluation", *sides, *adaptive)
        self._evaluation = evaluated, _only(rootless, sides)

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
            _of_server(state),
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
                self._known(state), self._attackers[1], meeting, _of_attack(trained)
            )
        attack = sent.attack
        if self._adapt is not None:
            sent, found = self._adapt.call(
                _of_server(state),
                self._server[1],
                meeting,
                _of_attack(trained)._replace(attack=factor),
                sent.updates,
            )
            attack, told = (attack, sent.attack), {**told, **found}
        after, report, self._eligible = self._judge.call(
            _of_server(state), self._server[1], meeting, _of_nobody(sent)
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
                _of_attack(trained),
            )
            sent, _ = self._send.gives
        server = separate.without_clients(parts)
        if self._adapts:
            factored = lambda attack: with_factor(self._built.config, attack)
            self._adapt = self._get(
                "adapt",
                self._adapting,
                partial(separate.adapt, server, plain=plain, adapted=factored),
                _of_server(state),
                self._server[1],
                meeting,
                _of_attack(trained)._replace(attack=factor),
                sent.updates,
            )
            sent, _ = self._adapt.gives
        self._judge = self._get(
            "server",
            self._server[0],
            partial(separate.server, server),
            _of_server(state),
            self._server[1],
            meeting,
            _of_nobody(sent),
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
        state = _of_server(state)._replace(server=())
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


class _Identity:
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


ADAPTS = "adapt"  # the section of these keys of attack


def _section(key: str) -> str:
    return ADAPTS if key.startswith("attack.adapt") else key.partition(".")[0]


def _common(key: str) -> bool:
    apart = ("attack", ADAPTS, "defense", "client_defense", "evaluation")
    return _section(key) not in (*apart, "checkpoint", "log")


def _kind(attack: Attack) -> str:
    """What matters of an attack to whoever makes it adaptive."""
    kind = separate.adapts_trained(attack), "benign_updates" in attack.knowledge
    return repr(kind)


def _not_adapted(built: Experiment) -> Parts:
    """The parts with the attack as it is without `config.attack.adapt`."""
    if built.config.attack.adapt == "none":
        return built.parts
    plain = built.config.attack.model_copy(update={"adapt": "none"})
    config = built.config.model_copy(update={"attack": plain})
    return built.parts._replace(sides=sides_of(config))


def _of_server(state: FedState) -> FedState:
    """What the server's half reads of a state."""
    return state._replace(attack=(), clients=(), momentum=())


def _of_attack(sent: Sent) -> Sent:
    return sent._replace(clients=(), momentum=())


def _of_nobody(sent: Sent) -> Sent:
    return sent._replace(attack=(), clients=(), momentum=())


def _only(inputs: Inputs, sections: Sequence[str]) -> Inputs:
    """The inputs with the options of these sides."""
    options = {
        key: value
        for key, value in inputs.hyper.options.items()
        if _section(key) in sections
    }
    return inputs._replace(hyper=inputs.hyper._replace(options=options))


def _without_samples(data: TrainData) -> TrainData:
    """The data for whoever reads only how many samples each client has."""
    nothing: Any = ()
    return TrainData(nothing, nothing, nothing, data.counts, nothing)


def _padded(inputs: Inputs) -> Inputs:
    """Lets clients have room for a power of two of samples, so that more runs agree."""
    width = inputs.data.indices.shape[1]
    room = 1 << (width - 1).bit_length()
    indices = np.pad(np.asarray(inputs.data.indices), [(0, 0), (0, room - width)])
    return inputs._replace(data=inputs.data._replace(indices=jnp.asarray(indices)))
