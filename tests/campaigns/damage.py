"""A damaged file of an interrupted run: noticed in one line, or without any effect."""

import contextlib
import functools
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from campaign import carry_out, require
from helpers import files, write_config
from kills import compare

from fedjax_sim.commands import run as cli
from fedjax_sim.core.checkpoint import Checkpoints

ROUNDS, STOPPED = 6, 4


def command(folder: Path, rounds: int) -> tuple[int, str]:
    """Runs the command line in this process; returns (exit code, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(
            [
                "run.py",
                f"--config={write_config(folder)}",
                f"--config.rounds={rounds}",
                "--config.defense.name=droplet",
                "--config.checkpoint.every_rounds=1",
                f"--workdir={folder / 'run'}",
            ]
        )
    return code, err.getvalue()


@functools.cache
def prepared() -> tuple[Path, Path]:
    """A finished run, and the same run as it was after `STOPPED` rounds."""
    finished, stopped = (Path(tempfile.mkdtemp()) for _ in range(2))
    code, err = command(finished, ROUNDS)
    require(code == 0, f"the reference run fails: {err}")
    shutil.copytree(finished / "run", stopped / "run")
    run = stopped / "run"
    (run / "summary.json").unlink()
    checkpoints = Checkpoints(run / "checkpoints")
    kept = checkpoints.rounds()
    checkpoints.close()
    require(kept == [ROUNDS - 1, ROUNDS], f"checkpoints of {kept}")
    shutil.rmtree(run / "checkpoints" / str(ROUNDS))  # killed before the last one
    return finished, stopped


def trial(number: int, draws: np.random.Generator) -> None:
    """Damages one file, resumes, and looks at what comes of it."""
    del number
    finished, stopped = prepared()
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(stopped / "run", folder / "run")
        existing = [path for path in files(folder / "run") if path.name != "lock"]
        path = existing[draws.integers(len(existing))]
        what = damage(path, existing, draws)
        code, err = command(folder, ROUNDS)
        where = f"{path.relative_to(folder)}: {what}"
        if code == 0:
            compare(folder / "run", finished / "run")
        else:
            one = err.startswith("error: ") and err.count("\n") == 1
            require(code == 2 and one, f"{where}: exit code {code}, {err}")
    except Exception as error:
        error.add_note(f"{path.relative_to(folder)}: {what}")
        raise
    finally:
        shutil.rmtree(folder)


def damage(path: Path, others: list[Path], draws: np.random.Generator) -> str:
    """Does something to a file; returns what."""
    content = bytearray(path.read_bytes())
    kind = draws.choice(["bit", "cut", "gone", "zeros", "other", "longer"])
    if kind == "gone":
        path.unlink()
        return "deleted"
    if kind == "bit" and content:
        place = int(draws.integers(len(content)))
        content[place] ^= 1 << int(draws.integers(8))
        what = f"a bit of byte {place} flipped"
    elif kind == "zeros" and content:
        start = int(draws.integers(len(content)))
        content[start : start + 64] = bytes(len(content[start : start + 64]))
        what = f"zeros from byte {start}"
    elif kind == "other":
        other = others[draws.integers(len(others))]
        content = bytearray(other.read_bytes())
        what = f"the content of {other.name}"
    elif kind == "longer":
        content += draws.bytes(40)
        what = "40 bytes more"
    else:
        kept = int(draws.integers(len(content) + 1))
        content, what = content[:kept], f"cut to {kept} bytes"
    path.write_bytes(content)
    return what


if __name__ == "__main__":
    sys.exit(carry_out("damage", trial, sys.argv[1:], trials=150, minutes=10))
