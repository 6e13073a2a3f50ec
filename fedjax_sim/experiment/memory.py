"""How much memory a round needs, estimated before anything is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.target import GIB
from fedjax_sim.round.execution import Strategy


def bytes_of(variable: Any) -> int:
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
    sizes = {v: bytes_of(v) for v in (*jaxpr.invars, *jaxpr.constvars) if v in last_use}
    live = sum(sizes.values())
    peak = live
    for i, equation in enumerate(jaxpr.eqns):
        # What a sub-program is given is live already, at least as a part.
        inner = max(
            (
                _peak(sub) - sum(map(bytes_of, sub.invars))
                for sub in inner_programs(equation.params)
            ),
            default=0,
        )
        outputs = sum(bytes_of(v) for v in equation.outvars)
        peak = max(peak, live + max(outputs, inner))
        for variable in equation.outvars:
            if variable in last_use:
                sizes[variable] = bytes_of(variable)
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


class Needs(NamedTuple):
    """Bytes of one device.

    Attributes:
      per_client: of one client in training.
      fixed: in training, whatever the stack: data, states, updates.
      evaluation: in an evaluation, everything included.
    """

    per_client: int
    fixed: int
    evaluation: int = 0

    def total(self, stack: int) -> int:
        """With so many clients side by side."""
        return max(self.fixed + stack * self.per_client, self.evaluation)


def guess(strategy: Strategy, cohort_size: int, needs: Needs, limit: int) -> Strategy:
    """Returns the strategy that seems to fit, of at least one client; see `plan`."""
    stack = min(strategy.stack or cohort_size, cohort_size)
    room = (limit - needs.fixed) // max(needs.per_client, 1)
    return strategy if stack <= room else Strategy(max(1, room))


def plan(
    strategy: Strategy,
    cohort_size: int,
    needs: Needs,
    limit: int,
    may_shrink: bool,
) -> Strategy:
    """Returns a strategy that fits into `limit` bytes.

    Args:
      strategy: what was asked for, or what `auto` prefers.
      cohort_size: clients trained on one device.
      needs: of the run.
      limit: bytes available.
      may_shrink: `auto` may stack fewer clients than it prefers.

    Raises:
      InputError: not even that fits, or the strategy asked for does not.
    """
    stack = min(strategy.stack or cohort_size, cohort_size)
    if needs.total(stack) <= limit:
        return strategy
    if needs.total(1) > limit:
        raise InputError(
            f"the run needs about {needs.total(1) / GIB:.2f} GiB even with one client "
            f"at a time, {limit / GIB:.2f} GiB may be used "
            "(config.execution.memory_gib); take fewer clients per round, a smaller "
            "batch or model"
        )
    room = (limit - needs.fixed) // needs.per_client
    if not may_shrink:
        raise InputError(
            f"config.execution.clients stacks {stack} clients, which needs about "
            f"{needs.total(stack) / GIB:.2f} GiB of {limit / GIB:.2f} GiB "
            f"(config.execution.memory_gib); at most chunk:{room} fits"
        )
    return Strategy(int(room))
