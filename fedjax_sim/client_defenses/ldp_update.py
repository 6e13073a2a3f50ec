"""LDP of a whole update: benign clients clip it and add noise before they send it.

The Gaussian mechanism of local differential privacy (Dwork, Roth, "The Algorithmic
Foundations of Differential Privacy", 2014, appendix A), clipping as in McMahan, Ramage,
Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
but the noise is each client's own. Nothing accounts for the privacy that is spent.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import ClientRelease
from fedjax_sim.core.errors import check_range


def ldp_update(
    *, clip_norm: float = 1.0, noise_multiplier: float = 0.01
) -> ClientRelease:
    """Returns LDP as what benign clients do to their updates; training stays as it is.

    An update longer than C is shortened to C, then every coordinate gets noise from
    N(0, (sigma C)^2). Running statistics are sent as they are.

    Args:
      clip_norm: C, in L2 norm, above 0.
      noise_multiplier: sigma, not negative. (The defaults are our choice: the length of
        the noise grows with the root of the number of parameters.)

    Raises:
      InputError: a number outside its range.
    """
    check_range("client_defense", "clip_norm", clip_norm, 0, open_low=True)
    check_range("client_defense", "noise_multiplier", noise_multiplier, 0)

    def release(update: Array, key: Array) -> Array:
        norm = jnp.linalg.norm(update)
        short = update * jnp.where(norm > clip_norm, clip_norm / norm, 1.0)
        noise = jax.random.normal(key, update.shape)
        return short + noise_multiplier * clip_norm * noise

    return release
