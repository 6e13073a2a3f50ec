"""LDP: benign clients add noise to each local step (the baseline of LeadFL's code).

No clipping and no privacy accounting: noise on all weights is all that sets it apart
from FL-WBC, which puts noise on some. Zhu, Roos, Chen, ICML 2023, public code.
"""

from typing import Literal

import jax.numpy as jnp

from fedjax_sim.client_defenses.fl_wbc import Reset, noisy_sgd
from fedjax_sim.contracts.defense import ClientOptimizer
from fedjax_sim.core.errors import check_choice, check_range
from fedjax_sim.numerics.leaves import laplace_like, normal_like


def ldp(
    *,
    scale: float = 0.4,
    mechanism: Literal["laplace", "gaussian"] = "laplace",
    reset: Reset = "epoch",
) -> ClientOptimizer:
    """Returns LDP as the optimiser of benign clients; it replaces SGD.

    Args:
      scale: of the Laplace noise, or standard deviation of the Gaussian one.
      mechanism: the noise.
      reset: no noise on the first step of each epoch (the code) or of each round.

    Raises:
      InputError: an unknown mechanism or reset, a scale that is not positive.
    """
    draws = {"laplace": laplace_like, "gaussian": normal_like}
    check_choice("client_defense", "mechanism", mechanism, draws)
    check_range("client_defense", "scale", scale, 0, open_low=True)
    noise = draws[mechanism]
    return noisy_sgd(
        lambda key, tree: noise(key, tree, scale),
        lambda gradient, last, drawn: jnp.ones_like(gradient, bool),
        reset,
    )
