"""Statistics of the updates that an attacker knows, and updates drawn by attackers.

The rows that count are a mask, because who attacks differs from round to round.
Letters: `n` cohort, `d` parameters.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.attack import CraftView, Knowledge

# The honest updates of the compromised clients, or those of all benign clients.
Known = Literal["compromised", "benign"]


def declared(known: Known) -> tuple[Knowledge, ...]:
    """Returns what an attack must declare to see such rows."""
    return ("own_updates",) if known == "compromised" else ("benign_updates",)


def known_rows(view: CraftView, known: Known) -> Array:
    """Returns bool [n]: the rows of the cohort that the attacker learns from."""
    if known == "compromised":
        return view.malicious
    return view.present & ~view.malicious


def mean(updates: Array, rows: Array) -> Array:
    """Returns the mean f32 [d] of the rows (bool [n]); 0 without any."""
    total = jnp.where(rows[:, None], updates, 0.0).sum(0)
    return total / jnp.maximum(rows.sum(), 1)


def centered(updates: Array, rows: Array) -> Array:
    """Returns updates minus the mean of the rows f32 [n, d]; 0 in all other rows."""
    return jnp.where(rows[:, None], updates - mean(updates, rows)[None], 0.0)


def std(updates: Array, rows: Array, ddof: int) -> Array:
    """Returns the standard deviation f32 [d] of the rows; 0 of at most `ddof` rows.

    Two passes: in one, E[x^2] - E[x]^2 may turn negative in float32.
    """
    squares = jnp.square(centered(updates, rows)).sum(0)
    return jnp.sqrt(squares / jnp.maximum(rows.sum() - ddof, 1))


def sent_by_all(vector: Array, view: CraftView) -> Array:
    """Returns f32 [n, d]: the same vector f32 [d] for every attacker."""
    return jnp.broadcast_to(vector[None], view.updates.shape)


def draw_rows(view: CraftView, draw: Callable[[Array], Array]) -> Array:
    """Returns f32 [n, d]: `draw(key) -> f32 [d]` for each attacker, 0 for the others.

    A key belongs to a client and a round, not to a place in the cohort.
    """

    def row(client):
        client_id, attacks = client
        key = jax.random.fold_in(view.key, client_id)
        zeros = jnp.zeros_like(view.global_params)
        return lax.cond(attacks, lambda: draw(key), lambda: zeros)

    return lax.map(row, (view.client_ids, view.malicious))
