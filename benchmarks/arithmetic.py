"""How much arithmetic a program holds: FLOP of its matmuls."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.models import Model


def matmul_flops(function: Callable, *arguments: Any) -> list[int]:
    """Arithmetic of each matmul of a function without loops."""
    found: list[int] = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (left, _), _ = equation.params["dimension_numbers"]
                inner = np.prod([equation.invars[0].aval.shape[i] for i in left])
                found.append(int(2 * inner * equation.outvars[0].aval.size))
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def forward_flops(model: Model, shape: tuple[int, ...]) -> list[int]:
    """Arithmetic of each matmul of a forward pass on one image."""
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    forward = lambda p, b, x: model.apply(p, b, x, train=False)[0]
    return matmul_flops(forward, params, buffers, image)


def step_flops(model: Model, shape: tuple[int, ...], batch: int) -> int:
    """A forward pass and two backward ones, without the gradient of the images."""
    forward = forward_flops(model, shape)
    return batch * (3 * sum(forward) - forward[0])
