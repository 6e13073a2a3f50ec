"""LDP: benign clients add noise to each local step (the baseline of LeadFL's code).

No clipping and no privacy accounting: noise on all weights is all that sets it apart
from FL-WBC, which puts noise on some. Zhu, Roos, Chen, ICML 2023, public code.
"""

from typing import Literal

import jax.numpy as jnp

from fedjax_sim.client_defenses.parts.noisy_sgd import Reset, noisy_sgd
from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Positive, Traced, checked
from fedjax_sim.numerics.leaves import laplace_like, normal_like


@checked("client_defense")
def ldp(
    *,
    scale: Traced[Positive] = 0.4,
    mechanism: Literal["laplace", "gaussian"] = "laplace",
    reset: Reset = "epoch",
) -> ClientSide:
    """Returns LDP as the optimiser of benign clients; it replaces SGD.

    Args:
      scale: of the Laplace noise, or standard deviation of the Gaussian one.
      mechanism: distribution of the noise.
      reset: no noise on the first step of each epoch (the code) or of each round.

    Raises:
      InputError: an option outside its range.
    """
    draws = {"laplace": laplace_like, "gaussian": normal_like}
    noise = draws[mechanism]
    optimizer = noisy_sgd(
        lambda key, tree: noise(key, tree, scale),
        lambda gradient, last, drawn: jnp.ones_like(gradient, bool),
        reset,
    )
    return ClientSide(optimizer=optimizer)


ENTRY = Entry(
    ldp,
    paper="Zhu, Roos, Chen, ICML 2023, public code",
)
