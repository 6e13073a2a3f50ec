"""Functions that are one program when they are called alone."""

from collections.abc import Callable
from typing import TypeVar, cast

import jax

F = TypeVar("F", bound=Callable)


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
