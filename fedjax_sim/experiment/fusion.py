"""How much memory a program needs where the compiler fuses, as XLA does for GPUs.

What one elementwise operation hands to the next is never written: it is computed again
wherever it is needed, out of the arrays behind it. These are results of convolutions,
matmuls, reductions and loops, what goes into a convolution, matmul or loop, and what a
program is given and returns.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend import core

from fedjax_sim.experiment.memory import bytes_of, inner_programs

# They read and write whole arrays; `dot` stands for `dot_general`, and so on.
_WHOLE = (
    "arg",
    "conv_general",
    "cum",
    "custom",
    "dot",
    "dynamic_update",
    "eigh",
    "gather",
    "pallas",
    "random",
    "scatter",
    "select_and",  # the gradient of a maximum over windows
    "sort",
    "top_k",
)
# They read what is fused, and write an array; reductions over windows, too.
_WRITING = ("concatenate", "reduce")
# They are their inner program and no more.
_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat2",
)
# They are what they are given, under another shape.
_RENAMES = ("expand_dims", "reshape", "squeeze", "stop_gradient")


class _Step(NamedTuple):
    """An operation of a program whose calls are unfolded."""

    inputs: list[core.Var]
    outputs: list[core.Var]
    inner: list[core.Jaxpr]
    reads_whole: bool
    writes: bool


def fused_peak_bytes(function: Callable, *arguments: Any) -> int:
    """Estimate of the live bytes inside `function`, arguments included.

    0.80 to 1.23 of what XLA allots for an H100 for the networks of this package
    (`docs/accelerators.md`).
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _peak(jaxpr: core.Jaxpr) -> int:
    steps, results = _unfold(jaxpr)
    given = [*jaxpr.invars, *jaxpr.constvars]
    written = {*given, *results}
    for step in steps:
        if step.reads_whole:
            written.update(step.inputs)
        if step.writes:
            written.update(step.outputs)

    last_use: dict[core.Var, int] = {}
    behind: dict[core.Var, set[core.Var]] = {}  # the arrays that a value is made of
    for i, step in enumerate(steps):
        needed = _union(behind.get(v, {v}) for v in step.inputs)
        last_use.update(dict.fromkeys(needed, i))
        behind.update((v, needed) for v in step.outputs if v not in written)
    last_use.update(dict.fromkeys(results, len(steps)))

    ends: dict[int, list[core.Var]] = {}
    for variable, i in last_use.items():
        ends.setdefault(i, []).append(variable)
    there = {v for v in given if v in last_use}
    live = peak = sum(map(bytes_of, there))
    for i, step in enumerate(steps):
        new = [v for v in step.outputs if v in written]
        # What an inner program is given is live already, at least as a part.
        inner = [_peak(sub) - sum(map(bytes_of, sub.invars)) for sub in step.inner]
        written_here = sum(map(bytes_of, new))  # of a loop: what it carries
        peak = max(peak, live + written_here + max(inner, default=0))
        kept = [v for v in new if v in last_use]
        gone = [v for v in ends.get(i, ()) if v in there or v in kept]
        there = there.union(kept).difference(gone)
        live += sum(map(bytes_of, kept)) - sum(map(bytes_of, gone))
    return peak


def _unfold(jaxpr: core.Jaxpr) -> tuple[list[_Step], list[core.Var]]:
    """Returns the operations, those of calls in their place, and the results."""
    steps: list[_Step] = []

    def walk(jaxpr: core.Jaxpr, names: dict[core.Var, Any]) -> list[Any]:
        own = lambda v: names.get(v, v) if isinstance(v, core.Var) else v
        for equation in jaxpr.eqns:
            kind = equation.primitive.name
            inner = list(inner_programs(equation.params))
            arguments = list(map(own, equation.invars))
            if kind in _RENAMES:
                names[equation.outvars[0]] = arguments[0]
                continue
            if kind in _CALLS and inner:
                given = dict(zip(inner[0].invars, arguments, strict=True))
                names.update(zip(equation.outvars, walk(inner[0], given), strict=True))
                continue
            whole = bool(inner) or kind.startswith(_WHOLE)
            writes = whole or kind.startswith(_WRITING)
            outputs = list(equation.outvars)
            steps.append(_Step(_variables(arguments), outputs, inner, whole, writes))
        return list(map(own, jaxpr.outvars))

    return steps, _variables(walk(jaxpr, {}))


def _variables(atoms: Iterable[Any]) -> list[core.Var]:
    return [atom for atom in atoms if isinstance(atom, core.Var)]


def _union(sets: Iterable[set[core.Var]]) -> set[core.Var]:
    return set().union(*sets)
