"""FedProx: local training that is held near the global model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous
Networks", MLSys 2020, equation 2. No defence by itself: it is what benign clients do
differently, so it stands here.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import NonNegative, Traced, checked
from fedjax_sim.round.training import sgd

PyTree = Any
Variant = Literal["paper", "flwr_docs"]


@checked("client_defense")
def fedprox(
    *, variant: Variant = "paper", mu: Traced[NonNegative] = 0.01
) -> ClientSide:
    """Returns FedProx: the local loss has the term mu / 2 |w - g|^2 more.

    g is the model that the client received; all parameters count, running statistics
    do not. Weight decay acts as usual beside it.

    Args:
      variant: `paper` as above: its gradient is mu (w - g). `flwr_docs`, what the
        docstrings of flwr 1.42.0 tell clients to add: the sum over the tensors of norms
        that are not squared, so that the pull has the constant size mu / 2 for each.
      mu: weight of the term (the paper tries 0.001 to 1); 0 is FedAvg.

    Raises:
      InputError: an option outside its range.
    """

    def optimizer(
        learning_rate: Array | float,
        momentum: Array | float,
        weight_decay: Array | float,
    ) -> optax.GradientTransformationExtraArgs:
        rates = learning_rate, momentum, weight_decay
        return optax.chain(add_proximal(mu, squared=variant == "paper"), sgd(*rates))

    return ClientSide(optimizer=optimizer)


def add_proximal(
    mu: Array | float, squared: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of mu / 2 |w - g|^2; g are the parameters at `init`.

    Without `squared` it is that of mu / 2 times the sum of the norms of the tensors, 0
    at g itself.
    """

    def pull(now: Array, start: Array) -> Array:
        offset = now - start
        if squared:
            return mu * offset
        length = jnp.linalg.norm(offset.ravel())
        return 0.5 * mu * jnp.where(length > 0, offset / length, 0.0)

    def update(updates: PyTree, start: PyTree, params: PyTree, **extra: Any):
        del extra
        terms = jax.tree.map(pull, params, start)
        return jax.tree.map(jnp.add, updates, terms), start

    return optax.GradientTransformationExtraArgs(lambda params: params, update)


ENTRY = Entry(
    fedprox,
    paper="Li et al., MLSys 2020",
)
