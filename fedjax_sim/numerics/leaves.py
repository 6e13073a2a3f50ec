"""Weight tensors of a parameter tree, and noise of its shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PyTree = Any

# The tensors that PyTorch calls "weight": kernels and the scales of norms.
_WEIGHTS = ("kernel", "embedding", "scale")


def map_weights(
    function: Callable[..., Array],
    tree: PyTree,
    *rest: PyTree,
    otherwise: Callable[..., Array] | None = None,
) -> PyTree:
    """Maps the weight tensors of `tree`; all others to `otherwise`, zeros by default.

    LeadFL and FL-WBC act on weights only and leave biases alone.
    """
    otherwise = otherwise or (lambda x, *_: jnp.zeros_like(x))

    def one(path, *leaves):
        chosen = function if path[-1].key in _WEIGHTS else otherwise
        return chosen(*leaves)

    return jax.tree_util.tree_map_with_path(one, tree, *rest)


def laplace_like(key: Array, tree: PyTree, scale: Array | float) -> PyTree:
    """Returns Laplace(0, scale) noise of the shapes of `tree`."""
    return _noise_like(jax.random.laplace, key, tree, scale)


def normal_like(key: Array, tree: PyTree, scale: Array | float) -> PyTree:
    """Returns N(0, scale^2) noise of the shapes of `tree`."""
    return _noise_like(jax.random.normal, key, tree, scale)


def _noise_like(draw, key: Array, tree: PyTree, scale: Array | float) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [scale * draw(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )
