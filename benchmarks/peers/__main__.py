"""One job in fedjax_sim and in its peers, as whole commands that alternate.

    python -m benchmarks.peers --data=DIR --flpoison=CHECKOUT --flpoison_python=PYTHON \
        --blazefl_python=PYTHON --flwr_python=PYTHON --pfl_python=PYTHON

DIR holds `FashionMNIST/raw`, unpacked. A peer has a virtual environment of its own, and
takes part if its Python is given. Packages there: torch and torchvision with
`blazefl==2.0.3`, `flwr[simulation]==1.42.0` or `pfl==0.6.0`; for FLPoison
(https://github.com/vio1etus/FLPoison) scikit-learn, pyyaml, matplotlib, rarfile, ...
Nothing else should run on the machine.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

HERE = Path(__file__).parent
FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Folder with FashionMNIST/raw.", required=True)
flags.DEFINE_string("flpoison", None, "A checkout of FLPoison.")
for _name in ("flpoison", "blazefl", "flwr", "pfl"):
    flags.DEFINE_string(f"{_name}_python", None, "Python of its environment.")
flags.DEFINE_integer("rounds", 5, "Rounds of the job.")
flags.DEFINE_integer("repeats", 5, "Times that each is run.")
flags.DEFINE_string("json", None, "Also write the figures to this file.")


def commands(rounds: int) -> dict[str, list[str]]:
    """What is compared: name -> command line."""
    ours = [
        sys.executable,
        str(HERE.parents[1] / "launch/run.py"),
        f"--config={HERE / 'job_fedjax_sim.py'}",
        f"--config.data.data_dir={FLAGS.data}",
        f"--config.rounds={rounds}",
    ]
    own_cache = "--config.execution.compilation_cache"
    found = {"fedjax_sim, first time": [*ours, f"{own_cache}=off"], "fedjax_sim": ours}
    if FLAGS.flpoison_python:
        script = str(HERE / "job_flpoison.py")
        found["FLPoison"] = [FLAGS.flpoison_python, script, FLAGS.flpoison]
    if FLAGS.blazefl_python:
        job = [FLAGS.blazefl_python, str(HERE / "job_blazefl.py")]
        found["BlazeFL"] = [*job, "--processes=1"]
        found["BlazeFL, 2 processes"] = [*job, "--processes=2"]
    for name in ("flwr", "pfl"):
        if python := FLAGS[f"{name}_python"].value:
            found[name] = [python, str(HERE / f"job_{name}.py")]
    peers = {
        name: [*command, FLAGS.data, str(rounds)]
        for name, command in found.items()
        if "fedjax_sim" not in name
    }
    if not peers:
        raise SystemExit("no peer: give --flpoison_python, --blazefl_python, ...")
    return {**found, **peers}


def measure(command: list[str]) -> dict[str, float]:
    """Runs a command; returns its seconds, CPU seconds, peak MB and seconds a round."""
    with tempfile.TemporaryDirectory() as folder:
        if "launch" in command[1]:
            command = [*command, f"--workdir={folder}/run"]
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        ends, accuracy, lines = [], float("nan"), []
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"\bround (\d+)\D.*?(\d+\.\d\d)(?= |$)", line.rstrip())
            if found:
                ends.append(time.monotonic())
                accuracy = float(
                    line.split("MTA")[1].split()[0]
                    if "MTA" in line
                    else line.split()[-1]
                )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
    if status or not ends:
        raise SystemExit("".join(lines[-20:]) + f"failed: {' '.join(command)}")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "first_round": ends[0] - begun,
        "seconds_a_round": (ends[-1] - ends[0]) / max(len(ends) - 1, 1),
        "accuracy": accuracy,
    }


def main(argv: list[str]) -> None:
    """Alternates the commands and prints medians and ratios."""
    del argv
    chosen = commands(FLAGS.rounds)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    measure(chosen["fedjax_sim"])  # what it compiles is on the disk from here on
    for _ in range(FLAGS.repeats):
        for name, command in chosen.items():
            found[name].append(measure(command))
            print(
                name,
                {key: round(x, 2) for key, x in found[name][-1].items()},
                flush=True,
            )
    medians: dict[str, dict[str, Any]] = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    for name, row in medians.items():
        text = "  ".join(f"{key} {value:.2f}" for key, value in row.items())
        print(f"{name}: {text}")
        if "fedjax_sim" in name:
            continue
        for key in ("seconds", "seconds_a_round", "cpu_seconds", "peak_mb"):
            ratio = row[key] / medians["fedjax_sim"][key]
            print(f"  {key}, over fedjax_sim's: {ratio:.2f}")
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps({"runs": found, "median": medians}))


if __name__ == "__main__":
    app.run(main)
