"""Boosting: attackers make up for being few."""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.attack import CraftView, PyTree


def multiplied(scale: Array | float | None, shared: bool = False):
    """Returns `craft` that sends `scale` times each attacker's own update.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning",
    AISTATS 2020, section 3.4 (scaling, or model replacement).

    Args:
      scale: None is n / eta, the clients of the round over the server's rate.
      shared: divided by the number of attackers in the round; always for None.
    """

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        factor = scale
        if factor is None:
            factor = view.present.sum() / jnp.maximum(view.server_lr, 1e-12)
        if shared or scale is None:
            factor = factor / jnp.maximum(view.malicious.sum(), 1)
        return state, factor * view.updates

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
