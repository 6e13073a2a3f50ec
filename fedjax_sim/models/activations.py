"""Networks that compute in bfloat16 and keep float32 parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.model import Model


def in_bfloat16(model: Model) -> Model:
    """Returns the model with activations, and their gradients, in bfloat16.

    Parameters are rounded where they are used; they, their gradients, running
    statistics, normalisation, logits and the loss stay float32 (Micikevicius et al.,
    "Mixed Precision Training", ICLR 2018; bfloat16 needs no loss scale).
    """

    def rounded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(params, buffers, images, **options):
            low = lambda x: x.astype(jnp.bfloat16)
            out, buffers = function(
                jax.tree.map(low, params), buffers, low(images), **options
            )
            return out.astype(jnp.float32), buffers

        return call

    return model._replace(apply=rounded(model.apply), features=rounded(model.features))
