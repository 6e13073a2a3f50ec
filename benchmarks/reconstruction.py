"""FedREDefense's outer iterations."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.defenses.parts.reconstruction import (
    DistilledKnowledge,
    Rates,
    reconstruct,
    reconstruction_error,
)
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round.execution import auto_lowering

from .arithmetic import matmul_flops
from .federated import network_of
from .timing import beside_peak


def bench_reconstruction() -> dict[str, Any]:
    """FedREDefense's outer iterations: evaluation and gradient through five steps."""
    rows = {}
    print("\nreconstruction, 10 synthetic images, 5 inner steps")
    for name, shape in (
        ("cnn", (28, 28, 1)),
        ("cnn", (32, 32, 3)),
        ("convnet", (32, 32, 3)),
    ):
        seconds, flops, peak = reconstruction_cost(name, shape)
        label = f"{name} {'x'.join(map(str, shape))}"
        rows[label] = {
            "iterations_per_second": 1 / seconds,
            "gflop": flops / 1e9,
            "fraction_of_peak": flops / seconds / peak,
        }
        print(
            f"  {label}: {1 / seconds:.1f} iterations/s of {flops / 1e9:.2f} GFLOP, "
            f"{rows[label]['fraction_of_peak']:.2f} of peak"
        )
    return rows


def reconstruction_cost(
    name: str, shape: tuple[int, int, int], iterations: int = 20
) -> tuple[float, int, float]:
    """Of one client's outer iteration: seconds, arithmetic; and the peak meanwhile."""
    network = network_of(name, shape, auto_lowering(jax.default_backend()))
    params = ravel(network.model.init(jax.random.key(0))[0])
    update = 1e-2 * jax.random.normal(jax.random.key(1), params.shape)
    start = DistilledKnowledge(
        jax.random.normal(jax.random.key(2), (10, *shape)),
        jnp.zeros((10, 10)),
        jnp.float32(0.1),
    )

    @jax.jit
    def run(params, update, start):
        return reconstruct(
            network,
            params,
            update[None],
            jax.tree.map(lambda x: x[None], start),
            limits=jnp.array([iterations]),
            threshold=None,
            rates=Rates(0.5, 0.2, 5e-6),
            steps=5,
            stack=1,
        )

    counted = network_of(name, shape, "patches")  # blocks would hide in a loop
    error = lambda k: reconstruction_error(counted, params, update, k, 5)
    flops = sum(matmul_flops(jax.value_and_grad(error), start))
    times, peak = beside_peak({"own": lambda: run(params, update, start)}, 5)
    # The first look has no gradient.
    return times["own"] / (iterations + 1 / 3), flops, peak
