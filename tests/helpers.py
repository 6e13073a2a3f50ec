"""Tiny federations and started commands, shared by the end-to-end tests."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.defense import Defense, Stage
from fedjax_sim.data.digits import load_digits
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.round import federation as fed
from fedjax_sim.round.state import FedState

ROOT = Path(__file__).resolve().parents[1]

# Six clients of 33 digits, four of them in a round, two malicious.
BASE: dict[str, Any] = {
    "rounds": 4,
    "data": {"name": "digits", "num_train": 200, "num_test": 60},
    "partition": {"name": "drop_iid", "num_clients": 6},
    "model": {"name": "mlp", "width": 8},
    "client": {"lr": 0.1, "batch_size": 16, "epochs": 1},
    "participation": {"name": "uniform", "clients_per_round": 4},
    "attack": {"name": "backdoor", "num_malicious": 2, "dpr": 1.0},
    "defense": {"name": "fedavg"},
    "execution": {"memory_gib": "unlimited"},
}

# BASE as a config file, for the command line.
CONFIG_FILE = f"""
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({BASE!r})
"""


@functools.cache
def _digits() -> Dataset:
    return load_digits()


def digits(num_train: int = 200, num_test: int = 60) -> Dataset:
    """The first digits, loaded once."""
    data = _digits()
    return data._replace(
        train_images=data.train_images[:num_train],
        train_labels=data.train_labels[:num_train],
        test_images=data.test_images[:num_test],
        test_labels=data.test_labels[:num_test],
    )


def build(changes: Mapping[str, Any] | None = None) -> experiment.Experiment:
    """An experiment from BASE with changes {"section.key": value}."""
    return experiment.build(resolve(override(BASE, changes or {})), digits())


def start_state(built: experiment.Experiment) -> FedState:
    """The state before the first round; not jitted, for that compiles each time."""
    return jax.device_put(built.init(built.inputs), jax.devices()[0])


def jitted_rounds(built: experiment.Experiment, capacity: int):
    """`(state, inputs, number of rounds) -> (state, reports)`, compiled when called."""
    return jax.jit(
        lambda state, inputs, count: fed.run_rounds(
            built.round_step, state, inputs, count, capacity
        )
    )


def after(built: experiment.Experiment, rounds: int) -> FedState:
    """The state after some rounds from the start."""
    run = jitted_rounds(built, rounds)
    return run(start_state(built), built.inputs, jnp.int32(rounds))[0]


def spy() -> Defense:
    """FedAvg whose state is the updates of the last round, f32 [n, d]."""

    def init(spec):
        return jnp.zeros((spec.cohort_size, spec.layout.size))

    def apply(state, cohort, context):
        del state, context
        return cohort.updates, cohort

    return pipeline(Stage(init, apply))


def spied(state: FedState) -> np.ndarray:
    """The updates that `spy` saw."""
    (updates,), _ = state.defense
    return np.asarray(updates)


def assert_same_bits(first: Any, second: Any) -> None:
    """Two pytrees of arrays agree in structure, dtypes and bits (NaN equals NaN)."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------ command line


def write_config(folder: Path) -> Path:
    """Writes BASE as a config file."""
    path = folder / "tiny.py"
    path.write_text(CONFIG_FILE)
    return path


def start(*arguments: str, workdir: Path | None = None) -> subprocess.Popen:
    """Starts `launch/run.py` as a user does, output piped."""
    command = [sys.executable, "launch/run.py", *arguments]
    if workdir is not None:
        command.append(f"--workdir={workdir}")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a .jsonl file."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """A metrics row without the fields that differ between equal runs."""
    return {k: v for k, v in row.items() if not k.startswith("seconds_")}


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder but its lock."""
    return (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "lock")
