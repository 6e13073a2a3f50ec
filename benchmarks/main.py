"""The flags of `launch/bench.py` and the table of its parts."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from fedjax_sim.commands.flags import run_command
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve

from .batches import bench_batches
from .clients import MODELS, bench_clients
from .defenses import bench_defenses
from .gram import bench_gram
from .order import bench_order
from .overhead import bench_population, bench_round
from .reconstruction import bench_reconstruction
from .runs import bench_runs
from .timing import matmul_peak
from .waste import bench_waste

USAGE = "usage: {command} [--json=FILE] [--only=PART,...] [--models=NAME,...]"

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "clients": bench_clients,
    "batches": bench_batches,
    "waste": bench_waste,
    "order": bench_order,
    "gram": bench_gram,
    "round": bench_round,
    "population": bench_population,
    "defenses": bench_defenses,
    "reconstruction": bench_reconstruction,
    "runs": bench_runs,
}


def make_flags() -> flags.FlagValues:
    """The flags of `launch/bench.py`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "json", None, "Also write the results to this file.", flag_values=values
    )
    flags.DEFINE_list("only", None, "Run these parts only.", flag_values=values)
    flags.DEFINE_list("models", None, "Measure these models only.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_measure, argv, make_flags(), USAGE, [], configurable=False)


def _measure(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    chosen = values.only or list(PARTS)
    _check_names("only", chosen, ["peak", *PARTS])
    models = sorted({name for name, *_ in MODELS.values()})
    _check_names("models", values.models or [], models)
    if values.json is not None:
        try:
            open(values.json, "a").close()
        except OSError as error:
            raise InputError(f"--json={values.json}: {error.strerror}") from None
    resolve({})  # the schema loads: what is measured is what runs
    peak = matmul_peak()
    device = jax.devices()[0].device_kind
    print(f"{jax.default_backend()} ({device}), jax {jax.__version__}")
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s (float32)")
    results: dict[str, Any] = {
        "backend": jax.default_backend(),
        "device": device,
        "jax": jax.__version__,
        "matmul_peak_gflops": peak / 1e9,
    }
    parts = {**PARTS, "clients": lambda: bench_clients(values.models)}
    for name in chosen:
        if name != "peak":
            results[name] = parts[name]()
    if values.json:
        with open(values.json, "w") as file:
            json.dump(results, file, indent=2)
    return 0


def _check_names(flag: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise InputError(f"--{flag}={name} must be one of: {', '.join(allowed)}")
