"""Attacks that search the factor under which a rule that they know errs most."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.line_search import Method, Search, maximize
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, CraftView
from fedjax_sim.core.errors import InputError
from fedjax_sim.numerics.columns import masked_mean, masked_std


def optimal_factor(
    *,
    line: Callable[[Array, Array, Array], Array],
    method: Method,
    evals: int,
    start: float,
    step: float,
    ratio: float,
    start_round: int,
    end_round: int | None,
) -> Attack:
    """An attack that tries its factors on the server's rule before it sends one.

    The server's answer is simulated with the benign updates of the round and a
    randomness of the attacker's own; the distance of the answer to their mean is what
    the search maximises.

    Args:
      line: `(mean f32 [d], deviation f32 [d], factor f32 []) -> f32 [d]`, what is sent.
      method, evals, start, step, ratio: of `line_search.maximize`.
      start_round, end_round: window of the attack.
    """

    def craft(state, view: CraftView):
        found = search(view, line, method, evals, start, step, ratio)
        mean, std = moments(view)
        return state, known_updates.sent_by_all(line(mean, std, found.best), view)

    return Attack(
        tries_rule=True,
        knowledge=("benign_updates", "aggregation_rule"),
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


def moments(view: CraftView) -> tuple[Array, Array]:
    """Mean and standard deviation (of a sample) f32 [d] of the benign updates."""
    rows = known_updates.known_rows(view, "benign")
    return masked_mean(view.updates, rows), masked_std(view.updates, rows, ddof=1)


def search(
    view: CraftView,
    line: Callable[[Array, Array, Array], Array],
    method: Method,
    evals: int,
    start: float,
    step: float,
    ratio: float,
) -> Search:
    """Returns the factor, and how far it moves the server's answer.

    Raises:
      InputError: the rule answers each group of clients apart.
    """
    answer = view.answer
    if answer is None:
        raise InputError(
            "config.attack.name: this attack tries what it sends on the server's rule; "
            "config.defense.name must be a rule with one model for all clients"
        )
    mean, std = moments(view)

    def distance(factor: Array) -> Array:
        sent = known_updates.sent_by_all(line(mean, std, factor), view)
        updates = jnp.where(view.malicious[:, None], sent, view.updates)
        return jnp.linalg.norm(answer(updates).update - mean)

    return maximize(
        distance, evals=evals, start=start, step=step, ratio=ratio, method=method
    )
