"""Runs of one config: alone, one after the other, in one program."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging

from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.round.execution import Strategy
from fedjax_sim.runs import loop
from fedjax_sim.runs.run import Job

_QUICKSTART = Path(__file__).parents[1] / "configs/quickstart.py"


def bench_runs() -> dict[str, Any]:
    """Sixteen seeds of one config: alone, in one program, and one run as a measure."""
    changes = {"rounds": 20, "checkpoint.every_seconds": 1e6}
    own = resolve_variants(load_file(str(_QUICKSTART)), changes)
    seeds = [own["droplet"].model_copy(update={"seed": seed}) for seed in range(16)]
    ways = {
        "one run": lambda folder: loop.run(seeds[0], folder / "0"),
        "16 one after the other": lambda folder: [
            loop.run(config, folder / str(config.seed)) for config in seeds
        ],
        "16 together, map": lambda folder: together(folder, Strategy(1)),
        "16 together, chunk:4": lambda folder: together(folder, Strategy(4)),
        "16 together, vmap": lambda folder: together(folder, Strategy(None)),
    }

    def together(folder, strategy):
        jobs = [Job(config, folder / str(config.seed)) for config in seeds]
        return loop.run_together(jobs, strategy)

    compiled = 0

    def count(event: str, duration_secs: float, **details: str | int) -> None:
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    rows: dict[str, Any] = {}
    logging.set_verbosity(logging.WARNING)  # of each checkpoint
    print("\nruns of configs/quickstart.py (droplet, 20 rounds), compilation included")
    for name, run in ways.items():
        jax.clear_caches()
        compiled = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            begun = time.monotonic()
            run(Path(folder))
            rows[name] = {"seconds": time.monotonic() - begun, "compiled": compiled}
        times = rows[name]["seconds"] / rows["one run"]["seconds"]
        print(
            f"  {name}: {rows[name]['seconds']:.1f} s, {times:.1f} times one run, "
            f"{compiled} programs compiled"
        )
    return rows
