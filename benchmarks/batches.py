"""Client steps for batches of all sizes, whole and in parts, and what a run does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from fedjax_sim.contracts.model import Network
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.layout import lowering_of, make_work
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import LocalWork

from .federated import client_program, network_of, train_data
from .timing import best_of

SIZES = (16, 32, 50, 64, 100, 128, 256)
_PARTS = (None, 16, 32)  # samples at a time
_CLIENTS, _STEPS = 2, 8


def of_a_run(network: Network, size: int) -> LocalWork:
    """What a run of one epoch does with batches of `size` samples."""
    return make_work(resolve({"client": {"batch_size": size, "epochs": 1}}), network)


def bench_batches() -> dict[str, Any]:
    """Whole batches beside parts of them, for each size; which one a run takes."""
    lowering, shape = lowering_of(resolve({}), jax.default_backend()), (28, 28, 1)
    network = network_of("cnn", shape, lowering)
    params, buffers = network.model.init(jax.random.key(0))
    print(f"\nclient steps of cnn 28x28x1, {lowering}, one client after the other")
    rows: dict[str, Any] = {}
    for size in SIZES:
        data = train_data(shape, _CLIENTS, size * _STEPS)
        works = {
            f"parts of {part}" if part else "whole": LocalWork(size, microbatch=part)
            for part in _PARTS
            if part is None or part < size
        }
        own = of_a_run(network, size)
        of_run = next((name for name in works if works[name] == own), "run")
        works[of_run] = own
        programs: dict[str, Callable[[], Any]] = {}
        for name, work in works.items():
            train = client_program(
                network.model,
                network.layout,
                buffers,
                work,
                Strategy(1),
                data,
                _CLIENTS,
            )
            programs[name] = partial(train, data, ravel(params))
        seconds = best_of(programs, 8)
        each = {name: 1e3 * s / _CLIENTS / _STEPS for name, s in seconds.items()}
        share = min(each.values()) / each[of_run]
        rows[str(size)] = {"ms_per_step": each, "run": of_run, "best_over_run": share}
        times = "  ".join(f"{name} {ms:.2f}" for name, ms in each.items())
        print(
            f"  batch {size:3d}: {times} ms; a run: {of_run}, {share:.2f} of the best"
        )
    return rows
