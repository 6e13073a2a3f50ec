"""No attack."""

import jax.numpy as jnp

from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked


@checked("attack")
def none() -> Attack:
    """No attack: the malicious clients do all that the benign ones do."""
    return Attack(knowledge=(), active=lambda round_index: jnp.bool_(False))


ENTRY = Entry(none, paper="-")
