"""Seconds of alternating functions, and what the machine can do at best."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp


def best_of(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds per call: each runs once to warm up, then all alternate.

    After half a minute no further repetition begins.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    best = dict.fromkeys(functions, float("inf"))
    started = time.perf_counter()
    for _ in range(repeats):
        for name, function in functions.items():
            begun = time.perf_counter()
            jax.block_until_ready(function())
            best[name] = min(best[name], time.perf_counter() - begun)
        if time.perf_counter() - started > 30:
            break
    return best


@cache
def large_matmul() -> tuple[Callable[[], jax.Array], int]:
    """A float32 matmul that runs at the machine's peak, and its arithmetic."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return lambda: multiply(a), 2 * size**3


def matmul_peak() -> float:
    """FLOP/s of a large float32 matmul."""
    return beside_peak({}, 20)[1]


def beside_peak(
    functions: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], float]:
    """`best_of`, and the peak in the same minutes: what it was before tells little."""
    multiply, flops = large_matmul()
    seconds = best_of({**functions, "": multiply}, repeats)
    return seconds, flops / seconds.pop("")


def memory_bandwidth() -> float:
    """Bytes per second read by a sum over 100 MB."""
    x = jnp.ones(25_000_000)
    total = jax.jit(lambda x: x.reshape(-1, 10_000).sum(0))
    return x.nbytes / best_of({"": lambda: total(x)}, 20)[""]
