"""FL-WBC: benign clients put noise where the Hessian is small.

Sun, Li, DiValentin, Hassanzadeh, Chen, Li, "FL-WBC: Enhancing Robustness against Model
Poisoning Attacks in Federated Learning from a Client Perspective", NeurIPS 2021, and
its public code.
"""

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.client_defenses.parts.noisy_sgd import Reset, noisy_sgd
from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Positive, Traced, checked
from fedjax_sim.numerics.leaves import laplace_like

PyTree = Any
Variant = Literal["code", "paper"]


@checked("client_defense")
def fl_wbc(
    *, scale: Traced[Positive] = 0.4, reset: Reset = "epoch", variant: Variant = "code"
) -> ClientSide:
    """Returns FL-WBC as the optimiser of benign clients; it replaces SGD.

    After each step, weights whose gradient changed by no more than the magnitude of a
    Laplace draw get eta times that draw: there the Hessian is small, and the effect
    of an attack would persist.

    Args:
      scale: of the Laplace noise (its standard deviation is sqrt(2) times larger).
      reset: forget the last gradient at each epoch (the code) or at each round.
      variant: `code` compares gradients; `paper` what the weights moved by, last time
        with the noise, which is the same without momentum and noise.

    Raises:
      InputError: an option outside its range.
    """
    optimizer = noisy_sgd(
        lambda key, tree: laplace_like(key, tree, scale),
        small_change,
        reset,
        of_steps=variant == "paper",
    )
    return ClientSide(optimizer=optimizer)


def small_change(gradient: Array, last: Array, noise: Array) -> Array:
    """FL-WBC's mask: where the gradient changed by at most |noise|."""
    return jnp.abs(gradient - last) <= jnp.abs(noise)


ENTRY = Entry(
    fl_wbc,
    paper="Sun et al., NeurIPS 2021",
)
