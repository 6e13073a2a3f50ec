"""The coordinate-wise median beside other implementations."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.numerics import order_statistics

from .timing import best_of, memory_bandwidth


def bench_order() -> dict[str, Any]:
    """Coordinate-wise median against jnp, NumPy and the memory bandwidth."""
    bandwidth = memory_bandwidth()
    rows: dict[str, Any] = {}
    print(f"\nmedian over clients; memory reads {bandwidth / 1e9:.1f} GB/s")
    for n, d in ((25, 1_000_000), (100, 200_000)):
        x = jax.random.normal(jax.random.key(n), (n, d))
        host = np.asarray(x)
        mask = jnp.ones(n, bool)
        ours = jax.jit(lambda x, m: order_statistics.median(x, m))
        theirs = jax.jit(lambda x: jnp.median(x, axis=0))
        seconds = best_of(
            {
                "fedjax_sim": partial(ours, x, mask),
                "jnp.median": partial(theirs, x),
                "np.median": partial(np.median, host, axis=0),
            },
            3,
        )
        rows[f"[{n}, {d}]"] = {
            "ms": {key: 1e3 * value for key, value in seconds.items()},
            "speedup_over_jnp": seconds["jnp.median"] / seconds["fedjax_sim"],
            "fraction_of_bandwidth": x.nbytes / seconds["fedjax_sim"] / bandwidth,
        }
        row = rows[f"[{n}, {d}]"]
        times = ", ".join(f"{key} {value:.1f} ms" for key, value in row["ms"].items())
        print(
            f"  [{n}, {d}]: {times}; {row['speedup_over_jnp']:.0f} x jnp, "
            f"{row['fraction_of_bandwidth']:.2f} of the bandwidth"
        )
    return rows
