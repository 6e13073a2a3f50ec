"""What the adapters of peer packages share: comparisons, a round, a small model."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from adapters_defenses import make_cohort, make_context, make_spec
from jax import Array

from fedjax_sim.contracts.defense import Aggregate, Cohort
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.testing.quick_jit import quick_jit

Case = dict[str, np.ndarray]
PyTree = Any


def assert_params(actual: Array, expected: np.ndarray, rtol: float = 2e-5) -> None:
    """Compares parameters and updates with |a - b| <= rtol (1 + |b|)."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def assert_scores(actual: Array, expected: np.ndarray, rtol: float = 1e-4) -> None:
    """Compares scores and distances."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


class Network:
    """The parts of a network that a rule reads."""

    def __init__(self, **parts):
        vars(self).update(parts)


class Round(NamedTuple):
    """What came of a round; rows and columns as in the file."""

    state: object
    cohort: Cohort
    result: Aggregate


def one_round(
    name: str,
    updates: np.ndarray,
    *,
    numbers: dict[str, float | int],
    fixed: dict[str, object] | None = None,
    weights: np.ndarray | None = None,
    state=None,
    network: Network | None = None,
    rows: int = 32,
    columns: int = 1,
) -> Round:
    """Carries out a round of a rule.

    The cohort is filled up with clients of weight 0, which must not matter, and with
    parameters that nobody moves, so that files of several shapes share one program.

    Args:
      name: of the rule.
      updates: f32 [n, d].
      numbers: its options that are arguments of the program.
      fixed: its other options.
      weights: of the clients; 1 unless they are given.
      state: before the round, None before the first.
      network: for rules that read one.
      rows, columns: n and d are filled up to a multiple of them.
    """
    n, d = updates.shape
    fixed = fixed or {}
    cohort = make_cohort(np.pad(updates, ((0, -n % rows), (0, -d % columns))))
    given = np.pad(np.ones(n) if weights is None else weights, (0, -n % rows))
    cohort = cohort._replace(weights=jnp.asarray(given, jnp.float32))
    if state is None:
        defense = DEFENSES[name].factory(**fixed, **numbers)
        spec = make_spec(cohort)._replace(network=network)
        state = jax.tree.map(jnp.asarray, defense.init(spec))
    program = _program(name, tuple(fixed.items()), network)
    state, cohort, result = program(state, cohort, numbers)
    cohort, result = jax.tree.map(np.asarray, (cohort, result))
    cohort = jax.tree.map(lambda x: x[:n], cohort)
    cohort = cohort._replace(updates=cohort.updates[:, :d])
    return Round(state, cohort, result._replace(update=result.update[:d]))


@cache
def _program(name: str, fixed: tuple, network: Network | None) -> Callable:
    def run(state, cohort, numbers):
        defense = DEFENSES[name].factory(**dict(fixed), **numbers)
        context = make_context(np.zeros(cohort.updates.shape[1]))
        return defense.aggregate(state, cohort, context._replace(network=network))

    return quick_jit(run)


def regression(images: Array, params: PyTree) -> Array:
    """Logits of softmax regression: weights [C, D] and bias, as PyTorch has them."""
    return images @ params["weight"].T + params["bias"]


def as_regression(flat: np.ndarray, classes: int) -> PyTree:
    """Cuts f32 [(D + 1) C] into weights [C, D] and bias [C]."""
    flat = np.asarray(flat, np.float32)
    weight = flat[:-classes].reshape(classes, -1)
    return {"weight": jnp.asarray(weight), "bias": jnp.asarray(flat[-classes:])}


def as_vector(params: PyTree) -> np.ndarray:
    """The flat vector of softmax regression."""
    parts = params["weight"].ravel(), params["bias"]
    return np.concatenate([np.asarray(part) for part in parts])


def mean_loss(params: PyTree, images: Array, labels: Array) -> Array:
    logits = regression(images, params)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
