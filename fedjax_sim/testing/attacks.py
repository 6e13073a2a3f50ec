"""What every attack must do; see `fedjax_sim.contracts.attack`.

A check is a function of a `Trial`; `check_attack` is all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.attack import Attack, Knowledge
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import options_of
from fedjax_sim.round.federation import check_states
from fedjax_sim.testing.attack_trial import (
    ATTACKERS,
    CLIENTS,
    ROUNDS,
    Trial,
    honest,
    sent,
)
from fedjax_sim.testing.claims import (
    claim,
    claim_close,
    claim_finite,
    name_of,
    shapes,
    told,
)


def check_attack(factory: Callable[..., Attack], **options: Any) -> None:
    """Tries an attack in a small federation: three rounds, two attackers of six.

    It takes some seconds: the federation is compiled with and without the attack.

    Args:
      factory: of the attack.
      **options: of the factory, such that the attack does something there; a `dpr`
        (data poisoning rate) is 1 unless it is given.

    Raises:
      AssertionError: the attack breaks the contract (`contracts.attack`); one line says
        how.
      InputError: the factory refuses the options.
    """
    name = name_of(factory)
    with told(name, "the factory"):
        attack = factory(**options)
    made = type(attack).__name__
    claim(isinstance(attack, Attack), name, f"makes a {made}, no Attack")
    knowledge_is_declared(name, attack)
    with told(name, "active"):
        windows_are_kept(name, factory, options)
    with _in_the_table(factory) as key, told(name, "a round, traced by JAX,"):
        trial = Trial(key, options, name)
        a_round_can_be_traced(trial)
        state_keeps_its_shapes(trial)
        only_attackers_send_something_else(trial, honest())
        if attack.craft is not None:
            rows_may_be_in_any_order(trial)
            for attackers in (0, 1, CLIENTS):
                crafted_updates_are_finite(trial, attackers)


@contextmanager
def _in_the_table(factory: Callable[..., Attack]) -> Iterator[str]:
    """The name of an attack, while a config may choose it."""
    key = f"{name_of(factory)} (tested)"
    ATTACKS[key] = Entry(factory, "-")
    try:
        yield key
    finally:
        del ATTACKS[key]


def knowledge_is_declared(name: str, attack: Attack) -> None:
    """As a tuple of the words there are."""
    allowed, declared = get_args(Knowledge), attack.knowledge
    right = isinstance(declared, tuple) and set(declared) <= set(allowed)
    broken = f"knowledge = {declared!r} must be a tuple of {', '.join(allowed)}"
    claim(right, name, broken)


def windows_are_kept(
    name: str, factory: Callable[..., Attack], options: Mapping[str, Any]
) -> None:
    """An attack with a `start_round` and an `end_round` acts between them alone."""
    if not {"start_round", "end_round"} <= set(options_of(factory)):
        return
    make = lambda **window: factory(**{**options, **window})
    active = make(start_round=3, end_round=5).active
    claim(active is not None, name, "has start_round and end_round, but no `active`")
    assert active is not None
    acts = [round_ for round_ in range(1, 7) if bool(active(jnp.int32(round_)))]
    claim(acts == [3, 4], name, f"from 3 to before 5 it acts in rounds {acts}")
    active = make(start_round=1, end_round=2).active
    first = active is not None and bool(active(jnp.int32(1)))
    claim(first, name, "with end_round=2 it does not act in round 1")
    for start, end in ((0, None), (4, 4)):
        window = {"start_round": start} | ({} if end is None else {"end_round": end})
        try:
            make(**window)
        except InputError as error:
            named = "config.attack.start_round" in str(error)
            named |= "config.attack.end_round" in str(error)
            claim(named, name, f"refuses {window} by {str(error)!r}, without the key")
        else:
            claim(False, name, f"takes {window}: rounds count from 1, the end is later")


def a_round_can_be_traced(trial: Trial) -> None:
    """Before anything is compiled."""
    built = trial.build("map")
    try:
        check_states(built.parts, built.inputs)
    except InputError as error:
        raise AssertionError(f"{trial.name}: {error}") from error


def state_keeps_its_shapes(trial: Trial) -> None:
    """In a loop over rounds on the device, which learns something finite."""
    _, start, _, last, reports = trial.rounds
    before, after = shapes(start.attack), shapes(last.attack)
    broken = f"the state changes in a round, from {before} to {after}"
    claim(before == after, trial.name, broken)
    claim_finite(last.params, trial.name, "the model of FedAvg is not finite under it")
    moved = not np.array_equal(last.params, start.params)
    claim(moved, trial.name, "nobody learns anything under it")
    malicious = [[False] * (CLIENTS - ATTACKERS) + [True] * ATTACKERS] * ROUNDS
    same = np.array_equal(reports.malicious, malicious)
    claim(same, trial.name, "other clients are malicious than the config says")


def only_attackers_send_something_else(trial: Trial, clean: Trial) -> None:
    """Benign clients send what they send without it; the model becomes another."""
    attacked, usual = trial.rounds, clean.rounds
    benign = slice(CLIENTS - ATTACKERS)
    broken = "what benign clients send in the first round changes"
    first = sent(attacked.first)[benign], sent(usual.first)[benign]
    claim_close(trial.name, broken, updates=first)
    # In some round: several attacks have to watch before they act.
    same = np.allclose(attacked.last.params, usual.last.params, atol=1e-4)
    broken = f"changes nothing in {ROUNDS} rounds; give options under which it does"
    claim(not same, trial.name, broken)


def stacking_does_not_matter(trial: Trial) -> None:
    """Clients that train four at a time do what they do alone."""
    one, four = trial.rounds.last, trial.run("chunk:4").last
    broken = "the stacking of clients matters"
    updates = sent(four), sent(one)
    claim_close(trial.name, broken, rtol=1e-3, atol=1e-5, updates=updates)
    models = four.params, one.params
    claim_close(trial.name, broken, rtol=1e-4, atol=1e-5, model=models)


def rows_may_be_in_any_order(trial: Trial) -> None:
    """The places of the clients in the cohort mean nothing to `craft`."""
    state = trial.rounds.first.attack
    view = trial.view(np.arange(CLIENTS) >= 3)
    order = jnp.array([5, 2, 0, 4, 1, 3])
    rows = ("updates", "malicious", "present", "client_ids")
    moved = view._replace(**{key: getattr(view, key)[order] for key in rows})
    _, crafted = trial.craft(state, view)
    _, other = trial.craft(state, moved)
    chosen = view.malicious[order]
    both = other[chosen], crafted[order][chosen]
    broken = "the order of the clients matters to craft"
    claim_close(trial.name, broken, rtol=1e-4, atol=1e-5, updates=both)


def crafted_updates_are_finite(trial: Trial, attackers: int) -> None:
    """None in this round, one alone, nobody benign."""
    malicious = np.arange(CLIENTS) >= CLIENTS - attackers
    view = trial.view(malicious)
    state, crafted = trial.craft(trial.rounds.first.attack, view)
    broken = f"with {attackers} attackers of {CLIENTS} clients craft is not finite"
    claim_finite((state, crafted[malicious]), trial.name, broken)
