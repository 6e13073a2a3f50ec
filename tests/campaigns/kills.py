"""A run that is killed at random moments ends with the bits of one that was not."""

import functools
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from campaign import carry_out, require
from helpers import rows, start, without_times, write_config

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ROUNDS = 12


def flags(folder: Path) -> list[str]:
    """A run with a state to lose, saved often."""
    return [
        f"--config={write_config(folder)}",
        f"--config.rounds={ROUNDS}",
        "--config.defense.name=droplet",
        "--config.checkpoint.every_rounds=1",
    ]


@functools.cache
def reference() -> tuple[Path, float]:
    """The folder of an undisturbed run, and the seconds that it took."""
    folder = Path(tempfile.mkdtemp())
    begun = time.monotonic()
    process = start(*flags(folder), workdir=folder / "run")
    _, err = process.communicate()
    require(process.returncode == 0, f"the reference run fails: {err}")
    return folder / "run", time.monotonic() - begun


def trial(number: int, draws: np.random.Generator) -> None:
    """Kills a run up to three times, lets it end, and compares."""
    del number
    undisturbed, seconds = reference()
    folder = Path(tempfile.mkdtemp())
    try:
        for _ in range(draws.integers(1, 4)):
            process = start(*flags(folder), workdir=folder / "run")
            time.sleep(draws.uniform(0.0, seconds))
            process.send_signal(SIGNALS[draws.integers(len(SIGNALS))])
            _, err = process.communicate()
            require("Traceback" not in err, f"a killed run prints a traceback: {err}")
        process = start(*flags(folder), workdir=folder / "run")
        _, err = process.communicate()
        require(process.returncode == 0, f"exit code {process.returncode}: {err}")
        compare(folder / "run", undisturbed)
    finally:
        shutil.rmtree(folder)


def compare(found: Path, expected: Path) -> None:
    """Two runs have the same rows, but for their times."""
    for name in ("rounds", "metrics"):
        here, there = (
            [without_times(row) for row in rows(folder / f"{name}.jsonl")]
            for folder in (found, expected)
        )
        require(here == there, f"{name}.jsonl differs")


if __name__ == "__main__":
    sys.exit(carry_out("kills", trial, sys.argv[1:], trials=30, minutes=10))
