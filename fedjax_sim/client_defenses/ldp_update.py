"""LDP of a whole update: benign clients clip it and add noise before they send it.

The Gaussian mechanism of local differential privacy (Dwork, Roth, "The Algorithmic
Foundations of Differential Privacy", 2014, appendix A), clipping as in McMahan, Ramage,
Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
but the noise is each client's own. Nothing accounts for the privacy that is spent.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import NonNegative, Positive, Traced, checked


@checked("client_defense")
def ldp_update(
    *, clip_norm: Traced[Positive] = 1.0, noise_multiplier: Traced[NonNegative] = 0.01
) -> ClientSide:
    """Returns LDP as what benign clients do to their updates; training stays as it is.

    An update longer than C is shortened to C, then every coordinate gets noise from
    N(0, (sigma C)^2). Running statistics are sent as they are.

    Args:
      clip_norm: C, in L2 norm.
      noise_multiplier: sigma. (The defaults are our choice: the length of the noise
        grows with the root of the number of parameters.)

    Raises:
      InputError: an option outside its range.
    """

    def release(update: Array, key: Array) -> Array:
        norm = jnp.linalg.norm(update)
        short = update * jnp.where(norm > clip_norm, clip_norm / norm, 1.0)
        noise = jax.random.normal(key, update.shape)
        return short + noise_multiplier * clip_norm * noise

    return ClientSide(release=release)


ENTRY = Entry(
    ldp_update,
    paper="Gaussian mechanism: Dwork, Roth 2014; clipping: McMahan et al., ICLR 2018",
)
