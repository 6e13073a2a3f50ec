"""How the clients of a round run side by side in one program.

`map` runs one client after the other, each on all cores; `vmap` stacks all of them;
`chunk:K` maps over stacks of K. With a device mesh, each device takes its share.
Results are the same up to the rounding of differently batched matmuls.

Clients with unequal data: a stack runs as many steps as its largest member, so
clients are sorted by their number of steps first, and each stack holds clients of
similar size. Stacks are as even as they can be; empty places run no step.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.core.errors import InputError
from fedjax_sim.numerics.rows import take_rows

PyTree = Any


class Strategy(NamedTuple):
    """Clients stacked per program step: 1 = map, None = all of them (vmap)."""

    stack: int | None


def parse_strategy(
    text: str, *, key: str = "config.execution.clients", others: str = "auto"
) -> Strategy:
    """Reads `vmap`, `map` or `chunk:K`.

    Args:
      text: what the user gave.
      key: the flag or key that it was given for.
      others: what else the key allows.

    Raises:
      InputError: anything else.
    """
    if text == "vmap":
        return Strategy(None)
    if text == "map":
        return Strategy(1)
    match = re.fullmatch(r"chunk:([1-9][0-9]*)", text)
    if not match:
        raise InputError(
            f"{key} = {text!r} is not a strategy; allowed: {others}, vmap, map, "
            "chunk:K with K a positive number"
        )
    return Strategy(int(match[1]))


def strategy_name(strategy: Strategy) -> str:
    """Returns `vmap`, `map` or `chunk:K`, as `parse_strategy` reads it."""
    stack = strategy.stack
    return {None: "vmap", 1: "map"}.get(stack, f"chunk:{stack}")


def auto_strategy(backend: str) -> Strategy:
    """The measured choice for a backend (`launch/bench.py` prints the comparison).

    On a CPU one client at a time keeps activations in the cache and every core in one
    matmul: 1.2 to 1.6 times faster than `vmap`. Accelerators need several clients to
    fill them; eight bounds the memory. The accelerator figure is a prior, not yet a
    measurement.
    """
    return Strategy(1) if backend == "cpu" else Strategy(8)


def auto_lowering(backend: str) -> Lowering:
    """On a CPU measured, on accelerators a prior.

    There the batched matmul of stacked clients' patches competes with a grouped
    convolution, whose gradient is known to be slow.
    """
    return "winograd" if backend == "cpu" else "patches"


def even_stacks(strategy: Strategy, cohort: int, devices: int = 1) -> tuple[int, int]:
    """Returns how many clients a device stacks, and how many such stacks it takes.

    No more stacks than the strategy asks for, of sizes as even as they can be: ten
    clients in stacks of at most eight are two of five, without empty places.
    """
    share = -(-cohort // devices)
    rows = -(-share // min(strategy.stack or share, share))
    return -(-share // rows), rows


def run_clients(
    train: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    tasks: PyTree,
    steps: Array,
    *,
    strategy: Strategy,
    mesh: Mesh | None = None,
) -> PyTree:
    """Runs `train(shared, task)` for every client.

    Args:
      train: pure; `task` has no client axis. Its loops must do nothing for a task of
        zero steps.
      shared: pytree that every client reads (data, global model).
      tasks: pytree with a leading client axis n and a bool field `present`.
      steps: i32 [n], steps each client will run; used for balancing only.
      strategy: how many clients are stacked.
      mesh: one axis of devices to share the clients among; None: one device.

    Returns:
      The results with a leading axis n, in the order of `tasks`.
    """
    cohort = steps.shape[0]
    devices = mesh.size if mesh is not None else 1
    stack, rows = even_stacks(strategy, cohort, devices)
    padded = rows * stack * devices

    # Largest first; neighbours share a stack, stacks are dealt to devices in turn.
    order = jnp.argsort(-steps, stable=True)
    place = jnp.concatenate([order, jnp.zeros(padded - cohort, order.dtype)])
    dealt = jax.tree.map(lambda x: take_rows(x, place), tasks)
    is_real = jnp.arange(padded) < cohort
    dealt = dealt._replace(present=dealt.present & is_real)
    dealt = jax.tree.map(lambda x: x.reshape(rows, devices, stack, *x.shape[1:]), dealt)

    def on_device(shared, tasks):
        tasks = jax.tree.map(lambda x: x[:, 0], tasks)  # this device's column
        if stack == 1:
            tasks = jax.tree.map(lambda x: x[:, 0], tasks)
            results = lax.map(lambda task: train(shared, task), tasks)
            return jax.tree.map(lambda x: x[:, None, None], results)
        stacked = jax.vmap(train, in_axes=(None, 0))
        if rows == 1:
            tasks = jax.tree.map(lambda x: x[0], tasks)
            return jax.tree.map(lambda x: x[None, None], stacked(shared, tasks))
        results = lax.map(lambda task: stacked(shared, task), tasks)
        return jax.tree.map(lambda x: x[:, None], results)

    if mesh is None:
        results = on_device(shared, dealt)
    else:
        axis = mesh.axis_names[0]
        results = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(P(), P(None, axis)),
            out_specs=P(None, axis),
            # Loop carries start replicated and become per-device values.
            check_vma=False,
        )(shared, dealt)
    results = jax.tree.map(lambda x: x.reshape(padded, *x.shape[3:]), results)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: take_rows(x, back), results)
