"""Layouts that fit the memory, as the compiled programs themselves say.

The estimate of `experiment.memory` comes first; what is compiled decides. Where it does
not fit, fewer runs go side by side, then fewer clients are stacked.
"""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled, Traced

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.experiment.target import GIB
from fedjax_sim.round.execution import Strategy, strategy_name
from fedjax_sim.runs.together import Together


class Fitted(NamedTuple):
    """Runs whose programs are compiled and fit.

    Attributes:
      built: the runs, as they are laid out now.
      together: with its programs compiled.
      traced: the programs before that, by name.
      needed: bytes on a device while they run.
    """

    built: list[Experiment]
    together: Together
    traced: dict[str, Traced]
    needed: float


def fit(
    built: Sequence[Experiment],
    strategy: Strategy | None,
    origin: float | None,
    capacity: int,
) -> Fitted:
    """Compiles runs in the first layout that fits the memory of their target.

    Args:
      built: runs of one program.
      strategy: how many are stacked; None: as many as fit.
      origin: of the phase clock, see `Together`.
      capacity: most rounds of a call.

    Raises:
      InputError: not even one client at a time fits, or not the layout asked for: one
        line says what would.
    """
    config = built[0].config
    limit = memory_limit(built[0])
    runs, begun, refused = list(built), time.monotonic(), ""
    while True:
        together = Together(runs, strategy, origin)
        traced, needed = _compiled(together, capacity)
        if needed <= limit:
            break
        stack = runs[0].parts.strategy.stack or _on_device(runs[0])
        stack = min(stack, _on_device(runs[0]))
        if together.stack > 1:
            strategy = Strategy(together.stack // 2)
            continue
        start = f"config.execution.clients stacks {stack} clients, which needs "
        refused = refused or start + _of(needed, limit)
        if stack == 1:
            raise InputError(
                f"the run needs {_of(needed, limit)} even with one client at a time; "
                "take fewer clients per round, a smaller batch or model"
            )
        smaller = max(1, min(stack // 2, int(stack * limit / needed)))
        runs = [with_stack(run, smaller) for run in runs]
    if refused and config.execution.clients != "auto":
        fits = strategy_name(runs[0].parts.strategy)
        raise InputError(f"{refused}; {fits} fits")
    runs = [_noted(run, needed) for run in runs]
    together.seconds = time.monotonic() - begun
    return Fitted(runs, together, traced, needed)


def memory_limit(built: Experiment) -> float:
    """Bytes of a device that a run may use."""
    limit = built.config.execution.memory_gib
    if limit == "unlimited":
        return float("inf")
    return built.target.memory if limit == "auto" else limit * GIB


def with_stack(built: Experiment, stack: int) -> Experiment:
    """Returns the same run with so many clients side by side."""
    strategy = Strategy(stack)
    execution = {**built.facts["execution"], "clients": strategy_name(strategy)}
    example = built._replace(
        parts=built.parts._replace(strategy=strategy),
        facts={**built.facts, "execution": execution},
    )
    return laid_out_as(example, built)


def laid_out_as(example: Experiment, built: Experiment) -> Experiment:
    """Returns a run of the same program in the layout of another."""
    return built._replace(
        parts=built.parts._replace(strategy=example.parts.strategy),
        twin=built.twin and built.twin._replace(strategy=example.parts.strategy),
        facts={**built.facts, "execution": example.facts["execution"]},
        estimated_bytes=example.estimated_bytes,
    )


def _noted(built: Experiment, needed: float) -> Experiment:
    execution = {**built.facts["execution"], "compiled_gib": round(needed / GIB, 6)}
    return built._replace(
        facts={**built.facts, "execution": execution}, estimated_bytes=int(needed)
    )


def _on_device(built: Experiment) -> int:
    return -(-built.parts.spec.cohort_size // built.config.execution.devices)


def _of(needed: float, limit: float) -> str:
    return (
        f"{needed / GIB:.2f} GiB of {limit / GIB:.2f} GiB "
        "(config.execution.memory_gib), as compiled"
    )


def _compiled(together: Together, capacity: int) -> tuple[dict[str, Traced], float]:
    """Compiles; returns the traced programs, and the bytes that they need."""
    try:
        traced = together.compile_shapes(capacity)
    except jax.errors.JaxRuntimeError as error:
        # The TPU's compiler refuses what its memory does not hold, and says its size.
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        used = re.findall(r"\(([\d.]+)G\)", str(error)) or ["inf"]
        return {}, max(float(size) for size in used) * GIB
    resident = together.resident_bytes(traced["initial"].out_info)
    return traced, resident + max(map(_temporary, together.compiled.values()))


def _temporary(program: Compiled) -> int:
    """Bytes that a program needs beside what stays on the device."""
    stats: Any = program.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return (
        stats.temp_size_in_bytes + max(0, results) + stats.generated_code_size_in_bytes
    )
