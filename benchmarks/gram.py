"""Pairwise distances of updates."""

from functools import partial
from typing import Any

import jax

from fedjax_sim.numerics.distances import squared_distances

from .timing import beside_peak


def bench_gram() -> dict[str, Any]:
    """Pairwise distances of n updates from one Gram matrix."""
    rows = {}
    print("\nsquared distances by a Gram matrix")
    for n, d in ((25, 1_200_000), (50, 1_200_000), (25, 11_000_000)):
        x = jax.random.normal(jax.random.key(0), (n, d))
        program = jax.jit(squared_distances)
        times, peak = beside_peak({"gram": partial(program, x)}, 4)
        seconds = times["gram"]
        rows[f"[{n}, {d}]"] = {
            "ms": 1e3 * seconds,
            "fraction_of_peak": 2 * n * n * d / seconds / peak,
            "gb_per_second": x.nbytes / seconds / 1e9,
        }
        row = rows[f"[{n}, {d}]"]
        print(
            f"  [{n}, {d}]: {row['ms']:.1f} ms, {row['fraction_of_peak']:.2f} of peak, "
            f"{row['gb_per_second']:.1f} GB/s"
        )
    return rows
