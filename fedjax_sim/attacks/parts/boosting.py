"""Boosting: attackers make up for being few."""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.attack import CraftView, PyTree


def multiplied(scale: Array | float):
    """Returns `craft` that sends `scale` times each attacker's own update.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning",
    AISTATS 2020, section 3.4 (scaling, or model replacement).
    """

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        return state, scale * view.updates

    return craft


def copy_sources(
    malicious: Array, present: Array, client_ids: Array, copies: Array | int
) -> Array:
    """Returns i32 [n]: whose update takes the place of each.

    `mal_boost` of LeadFL's code (Zhu, Roos, Chen, ICML 2023).

    The update of the attacker with the smallest id replaces those of the other
    attackers and then, by id, of benign clients, until it occurs `copies` times
    (at least as often as there are attackers). With `copies` = 1, or without an
    attacker, everybody keeps the own update.

    Args:
      malicious, present: bool [n]; only clients that are present are replaced.
      client_ids: i32 [n].
      copies: i32 [].
    """
    order = jnp.lexsort((client_ids, ~malicious, ~present))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    wanted = jnp.maximum(copies, malicious.sum())
    replaced = present & (place < wanted) & (copies > 1) & malicious.any()
    return jnp.where(replaced, order[0], jnp.arange(len(order)))
