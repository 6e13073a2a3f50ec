"""What a client is given, and what a benign one may do differently.

A client-side defence (LeadFL, FL-WBC, LDP, FLIP's training) is a `ClientSide`: the
third side of a round, beside the attack and the server's rule.

Letters: `B` batch, `N` population, `d` parameters, `H x W` pixels, `C` channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import optax
from jax import Array

from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Network

PyTree = Any
Options = dict[str, Array]  # of the sides, by "section.key"; see `experiment.program`


class Hyper(NamedTuple):
    """Numbers a sweep may vary without a new compilation."""

    learning_rate: Array | float
    momentum: Array | float
    weight_decay: Array | float
    server_lr: Array | float
    options: Options = {}  # noqa: RUF012 - never written to


class ClientTask(NamedTuple):
    """One client of the cohort; under `vmap` every field has a leading axis."""

    client_id: Array  # i32 []
    malicious: Array  # bool [], malicious and active in this round
    present: Array  # bool [], False: an empty place, trains nothing
    round: Array  # i32 [], from 1
    key: Array  # of this client in this round


class ClientContext(NamedTuple):
    """Who trains, and when."""

    client_id: Array  # i32 []
    malicious: Array  # bool [], malicious and active in this round
    round: Array  # i32 [], from 1
    epoch: Array  # i32 [], from 0


class Batch(NamedTuple):
    """Samples ready for the model; the real ones come first."""

    images: Array  # f32 [B, H, W, C], normalised
    labels: Array  # i32 [B]
    mask: Array  # bool [B], False = padding


# (params, buffers, batch) -> (summed loss f32 [], new buffers, gradient of the mean);
# parameters, buffers and gradient are trees.
GradientFn = Callable[[PyTree, PyTree, Batch], tuple[Array, PyTree, PyTree]]


class MemoryGradientFn(Protocol):
    """The gradient of a batch, for a client that remembers something."""

    def __call__(
        self,
        params: PyTree,
        buffers: PyTree,
        batch: Batch,
        memory: PyTree,
        round_index: Array,
        key: Array,
    ) -> tuple[Array, PyTree, PyTree, PyTree, Array]:
        """Returns (summed loss, buffers, gradient, memory, trained bool []).

        A batch that is not `trained` makes no step.
        """


# (learning rate, momentum, weight decay) -> the optimiser of benign clients; its update
# is also given `epoch_start` (bool [], first step of an epoch) and `key`.
ClientOptimizer = Callable[
    [Array | float, Array | float, Array | float],
    optax.GradientTransformationExtraArgs,
]

# (update f32 [d], key) -> f32 [d], what a benign client sends in place of its update.
ClientRelease = Callable[[Array, Array], Array]


class ClientTraining(NamedTuple):
    """Local training of benign clients with a memory of their own across rounds.

    Attributes:
      init: `(spec)` -> what all clients remember before the first round, a pytree with
        a leading axis N.
      gradient: `(network, normalization)` -> the gradient of a batch.
    """

    init: Callable[[FederationSpec], PyTree]
    gradient: Callable[[Network, Normalization], MemoryGradientFn]


class ClientSide(NamedTuple):
    """What benign clients do differently; None means "as usual".

    Attributes:
      optimizer: in place of SGD.
      release: what a client makes of its update before it sends it.
      training: the gradient of a batch, where a client remembers something.
    """

    optimizer: ClientOptimizer | None = None
    release: ClientRelease | None = None
    training: ClientTraining | None = None
