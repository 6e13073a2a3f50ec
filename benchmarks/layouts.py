"""What a round costs in each layout on a device that is not here, for the `auto` table.

    python -m benchmarks.layouts --target=tpu:v5e:1x1 [--networks=cnn,...] [--write]

from the root of a checkout, with the extra [tpu]. Every program is compiled in a
process of its own, which is ended after `--seconds`; it then counts as too slow to
compile and has no row. `--write` puts the rows into fedjax_sim/experiment/layouts.json,
in place of those of the same target and networks. Cohorts of 10, batches of 64, 10
steps, FedAvg.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_sim.commands.text_table import text_table
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.target import described
from fedjax_sim.runs.compiling import report

TABLE = Path(__file__).parents[1] / "fedjax_sim/experiment/layouts.json"
COHORT, BATCH, STEPS = 10, 64, 10
# Network -> side and channels of its images, in the order of their cost.
NETWORKS = {
    "cnn": (28, 1),
    "wide_cnn": (28, 1),
    "convnet": (32, 3),
    "leadfl_cifar": (32, 3),
    "leadfl_fashion": (28, 1),
    "resnet18": (32, 3),
}
LAYOUTS = [
    ("native", "map"),
    ("native", "chunk:5"),
    ("native", "vmap"),
    ("patches", "map"),
    ("patches", "chunk:8"),
]


def row(target: str, network: str, lowering: str, clients: str) -> dict[str, Any]:
    """Compiles one layout; returns its row of the table."""
    side, channels = NETWORKS[network]
    config = resolve(
        {
            "rounds": 10,
            "data": {
                "name": "synthetic",
                "height": side,
                "width": side,
                "channels": channels,
                "num_train": COHORT * BATCH * STEPS,
                "num_test": 1000,
            },
            "model": {"name": network},
            "client": {"batch_size": BATCH, "epochs": 1},
            "partition": {"num_clients": COHORT},
            "participation": {"clients_per_round": COHORT},
            "execution": {
                "lowering": lowering,
                "clients": clients,
                "memory_gib": "unlimited",
            },
        }
    )
    place = described(target)
    found = report(config, place)
    rounds = next(row for row in found["programs"] if row["program"] == "rounds")
    return {
        "target": target,
        "backend": place.backend,
        "network": network,
        "cohort": COHORT,
        "batch": BATCH,
        "lowering": lowering,
        "clients": clients,
        "cycles": found["cycles"],
        "temporary_mib": round(rounds["temporary MiB"], 1),
        "estimated_mib": round(1024 * found["memory_gib"]["estimated"], 1),
        "needed_mib": round(1024 * found["memory_gib"]["needed"], 1),
        "compile_seconds": round(rounds["seconds"], 1),
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "libtpu")
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles the layouts; returns 0."""
    parser = argparse.ArgumentParser(prog="layouts")
    parser.add_argument("--target", default="tpu:v5e:1x1")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one:
        print(json.dumps(row(given.target, *given.one)))
        return 0
    rows, networks = [], given.networks.split(",")
    for network in networks:
        for layout in LAYOUTS:
            options = [f"--target={given.target}", "--one", network, *layout]
            command = [sys.executable, "-m", "benchmarks.layouts", *options]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=given.seconds
                )
            except subprocess.TimeoutExpired:
                print(f"{network} {layout}: over {given.seconds:g} s", flush=True)
                continue
            if done.returncode:
                print(f"{network} {layout}: {done.stderr[-300:]}", flush=True)
                continue
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(done.stdout.splitlines()[-1], flush=True)
    if rows:
        print(text_table([key for key in rows[0] if key != "versions"], rows))
    if given.write:
        old = json.loads(TABLE.read_text())
        same = lambda row: row["target"] == given.target and row["network"] in networks
        kept = [row for row in old if not same(row)]
        lines = ",\n".join(json.dumps(row) for row in kept + rows)
        TABLE.write_text(f"[\n{lines}\n]\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
