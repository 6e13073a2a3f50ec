"""How much arithmetic a traced program holds, loops included.

XLA's own `cost_analysis` counts the body of a loop once.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.extend import core

from fedjax_sim.experiment.memory import inner_programs

_TOLD = re.compile(r"times_(\d+)|one_in_(\d+)")


def flops(jaxpr: core.Jaxpr, lengths: Mapping[str, float]) -> float:
    """Floating-point operations of the matmuls and convolutions of a program.

    Args:
      jaxpr: the traced program.
      lengths: of loops that the data decide, and shares of branches that are not always
        taken, by the name of their scope; others count once.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = [flops(sub, lengths) for sub in inner_programs(equation.params)]
        if kind == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            shape = _shape(equation.invars[0])
            contracted = np.prod([shape[axis] for axis in left])
            total += 2.0 * float(contracted * np.prod(_shape(equation.outvars[0])))
        elif kind == "conv_general_dilated":
            total += _convolution(equation)
        elif kind == "cond":
            scope = str(equation.source_info.name_stack)
            share = length_of(scope, lengths)
            total += (1.0 if share is None else share) * max(inner, default=0.0)
        elif kind == "scan":
            total += equation.params["length"] * sum(inner)
        elif kind == "while":
            scope = str(equation.source_info.name_stack)
            times = length_of(scope, lengths)
            total += (1.0 if times is None else times) * sum(inner)
        else:
            total += sum(inner)
    return total


def length_of(scope: str, lengths: Mapping[str, float]) -> float | None:
    """The length of the loop of a scope such as `a/vmap(local_steps)`, if known.

    A scope may tell it itself: `times_651` of a loop, `one_in_5` of a branch.
    """
    last = scope.rsplit("/", 1)[-1]
    told = _TOLD.search(last)
    if told:
        return float(told[1]) if told[1] else 1.0 / float(told[2])
    return next((n for name, n in lengths.items() if name in last), None)


def _convolution(equation: Any) -> float:
    """Each output is a sum over a kernel and the channels of its group."""
    kernel = _shape(equation.invars[1])
    dims = equation.params["dimension_numbers"].rhs_spec  # out, in, rows, columns
    terms = np.prod([kernel[axis] for axis in dims[1:]])
    # Zeros between the inputs of a gradient are not multiplied.
    holes = np.prod(equation.params["lhs_dilation"])
    return 2.0 * float(terms * np.prod(_shape(equation.outvars[0])) / holes)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
