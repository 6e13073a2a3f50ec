"""What a process has compiled, kept for all runs that come."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_sim.core.compiled import compiler_options

PyTree = Any
MOST_PROGRAMS = 1000  # that are kept; some MiB each


class Piece(NamedTuple):
    """A compiled function, and the shapes of what it returns."""

    call: Callable[..., Any]
    gives: PyTree


class Programs:
    """What this process has compiled, for all runs that come.

    Attributes:
      compiled: how many programs so far.
    """

    def __init__(self) -> None:
        self._pieces: dict[Hashable, Piece] = {}
        self.compiled = 0

    def piece(
        self, name: str, identity: str, function: Callable, given: Sequence[PyTree]
    ) -> Piece:
        """Returns a pure function, compiled.

        Args:
          name: of the piece.
          identity: all that shapes it beside what it is given.
          function: the piece.
          given: its arguments, or their shapes.
        """
        leaves, structure = jax.tree.flatten(tuple(given))
        shapes = tuple((np.shape(x), str(x.dtype)) for x in leaves)
        key = name, identity, structure, shapes
        found = self._pieces.pop(key, None)
        if found is None:
            options = compiler_options(
                jax.default_backend(), once=name.startswith("start")
            )
            traced = jax.jit(function, compiler_options=options).trace(*given)
            found = Piece(traced.lower().compile(), traced.out_info)
            self.compiled += 1
        self._pieces[key] = found  # the last used is the last to go
        if len(self._pieces) > MOST_PROGRAMS:
            del self._pieces[next(iter(self._pieces))]
        return found
