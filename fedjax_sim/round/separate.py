"""A round in programs of their own: the clients, the attack, the server's rule.

`round_step` is one function of all three sides. Here it is cut where they meet, so that
runs that differ in one side share the programs of the others: attacks that work like
benign clients until they send share the training, all attacks share a rule. Each
function builds its side and none of the others, so that nothing else can be compiled
into it.

Not every round can be cut so: see `separable`.

Letters: `N` population, `n` cohort, `d` parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.defense import Defense
from fedjax_sim.core.precision import highest
from fedjax_sim.round import federation
from fedjax_sim.round.adversary import adversary
from fedjax_sim.round.federation import Opened, Parts, Sent
from fedjax_sim.round.state import FedState, Inputs, RoundReport, Sides

PyTree = Any
NOBODY = Attack(knowledge=())


class Meeting(NamedTuple):
    """What the clients' half of a round hands on, without what the server knows."""

    round: Array  # i32 [], from 1
    active: Array  # bool []
    ids: Array  # i32 [n]
    present: Array  # bool [n]
    attacking: Array  # bool [n]


def separable(parts: Parts) -> bool:
    """Whether the sides of a round meet in nothing but what the clients send.

    They do not where groups of clients have models of their own, where attackers wait
    for the rule, or displace benign clients, and on several devices.
    """
    attack, defense, _ = parts.sides({})
    closed = (defense.groups, attack.rests, attack.takes_over, parts.mesh)
    return all(seam is None for seam in closed)


def trains_as_benign(attack: Attack) -> bool:
    """Whether the training of a round is the same as with any such attack.

    But for who attacks, if the attack is active.
    """
    seams = (attack.observe, attack.prepare, attack.triggers)
    return not attack.trains_otherwise and all(seam is None for seam in seams)


def adapts_trained(attack: Attack) -> bool:
    """Whether what is made adaptive was trained, and not only crafted."""
    return attack.craft is None or attack.trains_otherwise


def reaches_clients(defense: Defense) -> bool:
    """Whether the rule changes what clients do, beside who is sampled."""
    return defense.broadcast is not None or defense.client_side is not None


def knows_rule(attack: Attack) -> bool:
    """Whether what is sent depends on the rule."""
    return "aggregation_rule" in attack.knowledge


def sends(attack: Attack) -> bool:
    """Whether the attack acts, or tells something, after the training."""
    return attack.craft is not None or attack.report is not None


# ----------------------------------------------------------------- sides left out


def without_attack(parts: Parts) -> Parts:
    """The same federation, whose attack is elsewhere or like benign clients."""
    return _with_sides(parts, lambda sides: sides._replace(attack=NOBODY))


def without_clients(parts: Parts) -> Parts:
    """The same federation, as its server sees it: what clients do is elsewhere."""
    change = lambda sides: sides._replace(attack=NOBODY, client=ClientSide())
    return _with_sides(parts, change)


def without_rule(parts: Parts) -> Parts:
    """The same federation; of the rule only who may be sampled is left, its state."""
    return _with_sides(parts, lambda sides: sides._replace(defense=_ELIGIBLE))


def _with_sides(parts: Parts, change: Callable[[Sides], Sides]) -> Parts:
    own = parts.sides
    return parts._replace(sides=lambda options: change(own(options)))


def _refuse(*given: Any) -> Any:
    raise AssertionError("the rule is not in this program")


_ELIGIBLE = Defense(
    init=lambda spec: jnp.ones(spec.population, bool),
    aggregate=_refuse,
    after=_refuse,
    eligible=lambda state: state,
)


# ---------------------------------------------------------------------- the pieces


@highest
def clients(parts: Parts, state: FedState, inputs: Inputs) -> tuple[Meeting, Sent]:
    """Opens the round and lets the clients train."""
    opened, sent = federation.clients_half(parts, state, inputs)
    return Meeting(*(getattr(opened, name) for name in Meeting._fields)), sent


@highest
def clients_alone(
    parts: Parts, active: Array, state: FedState, inputs: Inputs
) -> tuple[Meeting, Sent]:
    """The same for any attack that trains as benign clients do.

    Args:
      parts: of the federation.
      active: bool [], whether it acts in this round.
      state: before the round.
      inputs: of the run.
    """
    idle = Attack(knowledge=(), active=lambda round_index: active)
    changed = _with_sides(parts, lambda sides: sides._replace(attack=idle))
    return clients(changed, state, inputs)


@highest
def attack(
    parts: Parts, state: FedState, inputs: Inputs, meeting: Meeting, sent: Sent
) -> tuple[Sent, dict[str, Array]]:
    """Lets the attackers replace what they send; returns also what they report."""
    opened = _opened(parts, inputs, meeting, sent)
    sent = federation.attack(parts, state, opened, sent)
    foe = adversary(opened.sides.attack, opened.sides.defense.groups)
    return sent, foe.report(sent.attack)


@highest
def adapt(
    parts: Parts,
    state: FedState,
    inputs: Inputs,
    meeting: Meeting,
    trained: Sent,
    crafted: Array,
    plain: Attack,
    adapted: Callable[[Attack], Attack],
) -> tuple[Sent, dict[str, Array]]:
    """What `attack` gives for an attack that is made adaptive, after the plain one.

    Args:
      parts: of the federation, with the rule that the attackers try.
      state: before the round; of the attack, what adapting it adds.
      inputs: of the run.
      meeting: of the round.
      trained: what the clients have before the plain attack; its `attack` as above.
      crafted: f32 [n, d], what the plain attack sends.
      plain: the attack; only what it is said to be matters.
      adapted: makes an attack adaptive.
    """
    informed = "benign_updates" in plain.knowledge
    stand_in = Attack(
        knowledge=("benign_updates",) if informed else (),
        craft=lambda state, view: (state, crafted),
        trains=not adapts_trained(plain),
    )
    own = lambda sides: sides._replace(attack=adapted(stand_in))
    trained = trained._replace(attack=((), trained.attack))
    changed = _with_sides(parts, own)
    sent, report = attack(changed, state, inputs, meeting, trained)
    return sent._replace(attack=sent.attack[1]), report


@highest
def server(
    parts: Parts, state: FedState, inputs: Inputs, meeting: Meeting, sent: Sent
) -> tuple[FedState, RoundReport, Array]:
    """Judges, aggregates and steps; returns also who may be sampled next, bool [N]."""
    opened = _opened(parts, inputs, meeting, sent)
    judged = federation.defend(parts, state, opened, sent)
    after, report = federation.step(parts, state, opened, sent, judged)
    return after, report, federation.eligible(parts, after, inputs)


def _opened(parts: Parts, inputs: Inputs, meeting: Meeting, sent: Sent) -> Opened:
    return Opened(
        sides=parts.sides(inputs.hyper.options),
        inputs=federation.at_round(parts, inputs, meeting.round),
        **meeting._asdict(),
        attack=sent.attack,
    )
