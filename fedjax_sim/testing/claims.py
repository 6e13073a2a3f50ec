"""How a check says what is broken, in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from fedjax_sim.core.errors import InputError

PyTree = Any


def claim(true: Any, name: str, broken: str) -> None:
    """Raises AssertionError unless something is true.

    Args:
      true: a bool, or an array of one.
      name: of the rule.
      broken: what is so when it is false.
    """
    if not bool(true):
        raise AssertionError(f"{name}: {broken}")


def claim_close(
    name: str, broken: str, rtol: float = 1e-5, atol: float = 1e-6, **pairs: PyTree
) -> None:
    """Raises AssertionError where two pytrees differ by more than rounding.

    Args:
      name: of the rule.
      broken: what is so then.
      rtol, atol: relative and absolute tolerance.
      **pairs: of pytrees of equal structure, by what they are.
    """
    for what, (first, second) in pairs.items():
        kinds = [str(jax.tree.structure(tree)) for tree in (first, second)]
        same = kinds[0] == kinds[1]
        what = what.replace("_", " ")
        claim(same, name, f"{broken} (another structure of the {what})")
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape:
                raise AssertionError(f"{name}: {broken} ({what}: {a.shape}, {b.shape})")
            if not np.allclose(a, b, rtol, atol, equal_nan=True):
                off = np.abs(a.astype(float) - b.astype(float)).max()
                raise AssertionError(
                    f"{name}: {broken} (the {what} by up to {off:.3g})"
                )


def claim_finite(tree: PyTree, name: str, broken: str) -> None:
    """Raises AssertionError where a pytree holds a NaN or an infinity."""
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        if np.issubdtype(leaf.dtype, np.inexact):
            claim(np.isfinite(leaf).all(), name, broken)


@contextmanager
def told(name: str, doing: str) -> Iterator[None]:
    """Turns whatever the rule itself raises into one line.

    Raises:
      AssertionError: an exception of the rule, but no InputError: that is a refusal.
    """
    try:
        yield
    except (AssertionError, InputError):
        raise
    except Exception as error:  # whatever the rule does
        first = (str(error).strip() or "no message").splitlines()[0]
        kind = type(error).__name__
        raise AssertionError(f"{name}: {doing} raises {kind}: {first}") from error


def shapes(tree: PyTree) -> PyTree:
    """The shape and dtype of every leaf, as text."""
    return jax.tree.map(
        lambda x: f"{jax.numpy.result_type(x)}{list(np.shape(x))}", tree
    )


def name_of(factory: Callable[..., Any]) -> str:
    """What messages call a rule."""
    return getattr(factory, "__name__", None) or repr(factory)
