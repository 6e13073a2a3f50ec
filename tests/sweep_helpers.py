"""A tiny sweep, started as a user does, shared by the tests of the executors."""

import os
import subprocess
import sys
import time

from helpers import BASE, ROOT, rows, without_times

from fedjax_sim.commands import sweep as cli
from fedjax_sim.sweeps import executors

ROUNDS = 16
SWEEP = f"""
from fedjax_sim.sweeps import Sweep, seeds

BASE = {BASE!r}


def get_sweep():
    return Sweep(BASE, seeds(2))
"""
# Saved in every round, so that there is always something to resume.
LONG = [f"--config.rounds={ROUNDS}", "--config.checkpoint.every_rounds=1"]


def start(sweep_file, root, *arguments):
    """Starts `launch/sweep.py` as a user does."""
    command = [sys.executable, "launch/sweep.py", f"--sweep={sweep_file}"]
    return subprocess.Popen(
        [*command, f"--results={root}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(capfd, sweep_file, root, *arguments):
    """Runs the command line in this process; returns (exit code, stdout, stderr)."""
    capfd.readouterr()
    flags = [f"--sweep={sweep_file}", f"--results={root}", *map(str, arguments)]
    code = cli.main(["sweep.py", *flags])
    return code, *capfd.readouterr()


def wait_until(process, condition):
    """Waits for something while the process lives."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def recorded(root):
    """Rounds recorded in all runs."""
    return sum(len(rows(path)) for path in root.glob("*/rounds.jsonl"))


def assert_same_results(root, expected):
    """No run lost, doubled or different."""
    names = sorted(path.parent.name for path in root.glob("*/config.json"))
    assert names == sorted(path.parent.name for path in expected.glob("*/config.json"))
    for name in names:
        assert executors.status(root / name) == "finished"
        for file in ("metrics.jsonl", "rounds.jsonl"):
            got, wanted = (
                [without_times(row) for row in rows(folder / name / file)]
                for folder in (root, expected)
            )
            assert got == wanted
