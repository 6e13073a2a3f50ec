"""What the runs of a plan will cost, from their traced programs: nothing is compiled.

The arithmetic of the matrix products and convolutions of a run, over the speed of a
machine at just that: a run takes longer, by a factor of two to five where networks are
small, for it also moves memory and starts programs.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.config import Config
from fedjax_sim.data.stand_in import stand_in
from fedjax_sim.experiment.arithmetic import flops
from fedjax_sim.experiment.build import build
from fedjax_sim.round import federation
from fedjax_sim.runs.compiling import loop_lengths

_SIZE, _TRIES = 1024, 5  # of the product that measures a machine


class RunCost(NamedTuple):
    """Of one run."""

    flop: float  # all rounds and evaluations
    gib: float  # estimated memory of a device


def run_cost(config: Config) -> RunCost:
    """Counts the arithmetic of a run from its config alone, without its data.

    Raises:
      InputError: see `experiment.build.build`; or the size of the data is not known.
    """
    built = build(config, stand_in(config))
    lengths = loop_lengths(built)
    init = lambda inputs: federation.init(built.parts, inputs)
    start = jax.eval_shape(init, built.inputs)
    step = jax.make_jaxpr(built.round_step)(start, built.inputs)
    test = jax.make_jaxpr(built.evaluate)(start, built.inputs, built.test_sets)
    once = flops(step.jaxpr, lengths)
    tests = -(-config.rounds // config.evaluation.every)
    return RunCost(
        config.rounds * once + tests * flops(test.jaxpr, {}),
        built.estimated_bytes / 2**30,
    )


def speed_here() -> float:
    """Measures FLOP/s of a matrix product of float32 on JAX's first device."""
    x = jnp.ones((_SIZE, _SIZE), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    begun = time.monotonic()
    for _ in range(_TRIES):
        product(x).block_until_ready()
    return _TRIES * 2.0 * _SIZE**3 / (time.monotonic() - begun)
