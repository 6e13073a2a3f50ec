"""Functions that are one program when they are called alone."""

from collections.abc import Callable
from typing import TypeVar, cast

import jax

F = TypeVar("F", bound=Callable)


def compiler_options(
    backend: str, *, once: bool = False
) -> dict[str, bool | str | int | float]:
    """Returns how the programs of a run are compiled.

    On a CPU with fewer of LLVM's passes than XLA's default: client steps, server rules
    and evaluations take the same time, the compilation 0.6 of it.

    Args:
      backend: cpu, gpu or tpu.
      once: the program runs once and not long: its compilation is what takes time.
    """
    if backend != "cpu" or jax.config.values["jax_disable_most_optimizations"]:
        return {}
    return {"xla_backend_optimization_level": 0 if once else 1}


def compiled(*static: str) -> Callable[[F], F]:
    """Returns a decorator for a pure function of arrays.

    Called on arrays, the function is compiled as a whole, and not one program for each
    of its operations. Inside a program that is traced it leaves no mark: its operations
    stand there as if they had been written in place.

    Args:
      static: names of arguments that are no arrays, and are hashable.
    """

    def decorate(function: F) -> F:
        return cast(F, jax.jit(function, inline=True, static_argnames=static))

    return decorate
