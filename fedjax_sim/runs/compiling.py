"""What a config needs on a device, from its compiled programs."""

from typing import Any

import jax
import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.experiment.arithmetic import flops
from fedjax_sim.experiment.build import Experiment, build
from fedjax_sim.experiment.schedules import Cost, cost_of
from fedjax_sim.experiment.target import GIB, Target
from fedjax_sim.round.federation import ROUNDS
from fedjax_sim.round.training import EPOCHS, MICROBATCHES, STEPS
from fedjax_sim.runs.fitting import fit, memory_limit

MIB = 2.0**20


def report(config: Config, target: Target) -> dict[str, Any]:
    """Compiles a config for a target.

    Returns:
      target, devices, jax: where and with what.
      layout: as in provenance.json.
      memory_gib: needed, limit, estimated, of one device.
      steps: optimiser steps of a client, by which loops are counted.
      programs: a row each: seconds of compiling, and what it needs, in MiB.
      flop, bytes, cycles, roofline_seconds: of a round; None where nothing says.
      round: the same as lines of text.

    Raises:
      InputError: see `experiment.build.build`; or it does not fit.
    """
    built = build(config, target=target)
    estimated = built.estimated_bytes
    fitted = fit([built], None, None, capacity=1)
    built = fitted.built[0]
    lengths = loop_lengths(built)
    compiled = fitted.together.compiled
    cost = cost_of(compiled["rounds"].as_text() or "", lengths)
    count = flops(fitted.traced["rounds"].jaxpr.jaxpr, lengths)
    found: dict[str, Any] = {
        "target": target.name,
        "devices": built.config.execution.devices,
        "jax": jax.__version__,
        "layout": built.facts["execution"],
        "memory_gib": {
            "needed": fitted.needed / GIB,
            "limit": memory_limit(built) / GIB,
            "estimated": estimated / GIB,
        },
        "steps": lengths[EPOCHS] * lengths[STEPS],
        "programs": [
            {"program": name, "seconds": fitted.together.took[name], **_sizes(program)}
            for name, program in compiled.items()
        ],
        "flop": count,
        "bytes": cost.bytes,
        "cycles": cost.cycles or None,
        "roofline_seconds": _roofline(built, count, cost),
    }
    return found | {"round": _lines(found, cost)}


def loop_lengths(built: Experiment) -> dict[str, float]:
    """How often the loops are run whose length the data decide.

    Those of the mean client, or of the largest where clients are stacked: a stack
    takes as many steps as its largest member.
    """
    work, strategy = built.parts.work, built.parts.strategy
    counts = np.asarray(built.inputs.data.counts)
    batches = -(-counts[counts > 0] // work.batch_size)
    each = float(batches.mean() if strategy.stack == 1 else batches.max())
    steps = work.steps or work.epochs * each
    each = min(each, steps)
    parts = -(-work.batch_size // (work.microbatch or work.batch_size))
    lengths = {EPOCHS: steps / each, STEPS: each, MICROBATCHES: float(parts)}
    return lengths | {ROUNDS: 1.0}


def _sizes(program: jax.stages.Compiled) -> dict[str, float]:
    stats: Any = program.memory_analysis()
    return {
        "arguments MiB": stats.argument_size_in_bytes / MIB,
        "results MiB": stats.output_size_in_bytes / MIB,
        "temporary MiB": stats.temp_size_in_bytes / MIB,
        "code MiB": stats.generated_code_size_in_bytes / MIB,
    }


def _roofline(built: Experiment, count: float, cost: Cost) -> float | None:
    """Seconds of a round in which neither arithmetic nor memory could be faster."""
    chip = built.target.chip
    if chip is None:
        return None
    share = count / built.config.execution.devices
    return max(share / chip.flops, cost.bytes / chip.bandwidth)


def _lines(found: dict[str, Any], cost: Cost) -> list[str]:
    lines = [
        f"a round: {found['flop'] / 1e9:.4g} GFLOP, "
        f"{found['bytes'] / 1e9:.4g} GB read and written on a device"
    ]
    if found["cycles"] is not None:
        lines.append(f"estimated by the compiler: {cost.cycles / 1e6:.4g} M cycles")
    if found["roofline_seconds"] is not None:
        lines.append(
            f"roofline: {1e3 * found['roofline_seconds']:.4g} ms at the published peak "
            "and bandwidth"
        )
    if cost.unknown:
        lines.append(f"{cost.unknown} loops of unknown length count once")
    return lines
