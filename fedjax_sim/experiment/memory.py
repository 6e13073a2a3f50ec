"""How much memory a round needs, estimated before anything is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.target import GIB
from fedjax_sim.round.execution import Strategy


def _bytes(variable: Any) -> int:
    aval = variable.aval
    return int(np.prod(aval.shape)) * np.dtype(aval.dtype).itemsize


def peak_bytes(function: Callable, *arguments: Any) -> int:
    """Upper estimate of the live bytes inside `function`, arguments included.

    Walks the traced program in order; a value lives until its last use. The compiler
    fuses and reorders, which usually needs less.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak(jaxpr: core.Jaxpr) -> int:
    last_use = {}
    for i, equation in enumerate(jaxpr.eqns):
        for variable in equation.invars:
            if isinstance(variable, core.Var):
                last_use[variable] = i
    for variable in jaxpr.outvars:
        if isinstance(variable, core.Var):
            last_use[variable] = len(jaxpr.eqns)
    sizes = {v: _bytes(v) for v in (*jaxpr.invars, *jaxpr.constvars) if v in last_use}
    live = sum(sizes.values())
    peak = live
    for i, equation in enumerate(jaxpr.eqns):
        # What a sub-program is given is live already, at least as a part.
        inner = max(
            (
                _peak(sub) - sum(map(_bytes, sub.invars))
                for sub in inner_programs(equation.params)
            ),
            default=0,
        )
        outputs = sum(_bytes(v) for v in equation.outvars)
        peak = max(peak, live + max(outputs, inner))
        for variable in equation.outvars:
            if variable in last_use:
                sizes[variable] = _bytes(variable)
                live += sizes[variable]
        for variable in {v for v in equation.invars if isinstance(v, core.Var)}:
            if last_use[variable] == i and variable in sizes:
                live -= sizes.pop(variable)
    return peak


def inner_programs(parameters: dict[str, Any]):
    """The sub-programs of an equation."""
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def guess(strategy: Strategy, cohort_size: int, room: float) -> Strategy:
    """Returns a strategy of at most `room` clients, but of at least one.

    Args:
      strategy: what was asked for.
      cohort_size: clients trained on one device.
      room: how many seem to fit.
    """
    stack = min(strategy.stack or cohort_size, cohort_size)
    return strategy if stack <= room else Strategy(max(1, int(room)))


def plan(
    strategy: Strategy,
    *,
    cohort_size: int,
    per_client: int,
    fixed: int,
    limit: int,
    may_shrink: bool,
) -> Strategy:
    """Returns a strategy that fits into `limit` bytes.

    Args:
      strategy: what was asked for, or what `auto` prefers.
      cohort_size: clients trained on one device.
      per_client: bytes of one client in training.
      fixed: bytes whatever the strategy: data, updates, evaluation.
      limit: bytes available.
      may_shrink: `auto` may stack fewer clients than it prefers.

    Raises:
      InputError: not even that fits, or the strategy asked for does not.
    """
    stack = min(strategy.stack or cohort_size, cohort_size)
    room = (limit - fixed) // max(per_client, 1)
    if stack <= room:
        return strategy
    needed = (fixed + stack * per_client) / GIB
    if room < 1:
        needed = (fixed + per_client) / GIB
        raise InputError(
            f"the run needs about {needed:.2f} GiB even with one client at a time, "
            f"{limit / GIB:.2f} GiB may be used (config.execution.memory_gib); take "
            "fewer clients per round, a smaller batch or model"
        )
    if not may_shrink:
        raise InputError(
            f"config.execution.clients stacks {stack} clients, which needs about "
            f"{needed:.2f} GiB of {limit / GIB:.2f} GiB (config.execution.memory_gib); "
            f"at most chunk:{room} fits"
        )
    return Strategy(int(room))
