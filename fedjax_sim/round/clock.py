"""When the phases of a round end, read on the host while the device works.

Not part of the pure round: `timed` puts a callback behind each half. It costs two calls
of the host in every round, and a program that is lowered for another platform, or for a
device that is described but not here, cannot have any.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.round.federation import Parts, clients_half, server_half
from fedjax_sim.round.state import FedState, Inputs, RoundReport

PyTree = Any
Timed = tuple[RoundReport, Array | tuple[()]]  # what happened, and when


def timed(
    origin: float | None,
) -> Callable[[Parts], Callable[[FedState, Inputs], tuple[FedState, Timed]]]:
    """Returns `parts -> (state, inputs) -> (state, (report, clock))`.

    The clock is i32 [2, 2]: (seconds, microseconds) after the local training and after
    the server step; `()` without an origin.

    Args:
      origin: `time.monotonic()` that the clock counts from; None leaves it unread.
    """

    def of(parts: Parts) -> Callable[[FedState, Inputs], tuple[FedState, Timed]]:
        def step(state: FedState, inputs: Inputs) -> tuple[FedState, Timed]:
            opened, sent = clients_half(parts, state, inputs)
            after, report = server_half(parts, state, opened, sent)
            if origin is None:
                return after, (report, ())
            ends = _read(sent.losses, origin), _read(after.params[:1], origin)
            return after, (report, jnp.stack(ends))

        return step

    return of


def _read(dependency: Array, origin: float) -> Array:
    """The host's clock once `dependency` is known, i32 (seconds, microseconds)."""

    def read(_: Any) -> np.ndarray:
        elapsed = time.monotonic() - origin
        return np.array([elapsed // 1, elapsed % 1 * 1e6], np.int32)

    shape = jax.ShapeDtypeStruct((2,), jnp.int32)
    return jax.pure_callback(read, shape, dependency, vmap_method="sequential")
