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
from fedjax_sim.numerics.columns import masked_mean

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


def centered(updates: Array, rows: Array) -> Array:
    """Returns updates minus the mean of the rows f32 [n, d]; 0 in all other rows."""
    return jnp.where(rows[:, None], updates - masked_mean(updates, rows)[None], 0.0)


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
