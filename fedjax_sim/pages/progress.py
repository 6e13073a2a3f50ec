"""How far runs are, read from their folders while they go on."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError
from fedjax_sim.pages.numbers import short
from fedjax_sim.runs.files import SUMMARY, Rows, read_json
from fedjax_sim.runs.rows import PHASES
from fedjax_sim.sweeps import executors

_TAIL = 1 << 20  # bytes at the end of rounds.jsonl, in which a whole row stands


# What the files of a run raise that hold JSON, but not what a run writes.
_ODD = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class Standing(NamedTuple):
    """Of a run."""

    run: str  # folder, relative to the results
    status: str  # see `reports.store`, or "unreadable"
    done: int  # rounds that are recorded
    of: int | None  # rounds of the run; None: nobody has said
    left: float | None  # seconds, of a run that goes on at its own pace; None: unknown
    mta: float | None  # percent, of the last evaluation
    asr: float | None
    line: str  # why it failed or cannot be read


Known = dict[Path, tuple[int, Standing]]  # finished runs, with the time of summary.json


def standings(results: Path, known: Known | None = None) -> list[Standing]:
    """Returns how far the runs below a folder are, those in progress first.

    Args:
      results: the folder.
      known: finished runs that were read before and need not be again; added to.
    """
    known = {} if known is None else known
    order = (executors.RUNNING, executors.FAILED, "unreadable", executors.INTERRUPTED)
    found = [_once(folder, results, known) for folder in run_folders(results)]
    rank = {status: i for i, status in enumerate(order)}
    return sorted(found, key=lambda one: (rank.get(one.status, len(order)), one.run))


def _once(folder: Path, results: Path, known: Known) -> Standing:
    """Of a run; whatever is odd about one is said in its row, and ends no list."""
    summary = folder / "summary.json"
    try:
        written = summary.stat().st_mtime_ns if summary.exists() else 0
        if folder in known and known[folder][0] == written:
            return known[folder][1]
        found = standing(folder, results)
    except _ODD as error:
        return _unreadable(str(folder.relative_to(results)), error, results)
    if found.status == executors.FINISHED:
        known[folder] = written, found
    return found


def run_folders(results: Path) -> list[Path]:
    """The folders that hold a run, or what failed before it was one."""
    found = []
    for place, folders, files in os.walk(results):
        folders.sort()
        if executors.OF_A_RUN & set(files):
            folders[:] = sorted(set(folders) - executors.INSIDE)
            found.append(Path(place))
    return found


def standing(folder: Path, results: Path) -> Standing:
    """Returns how far a run is; damaged files are said in its line."""
    name = str(folder.relative_to(results))
    status = executors.status(folder)
    line = ""
    if status == executors.FAILED:
        text = (folder / "error.txt").read_text(errors="replace")
        line = text.partition("\n")[0]
    done, of, metrics = 0, None, []
    try:
        if status == executors.FINISHED:
            read_json(folder / "summary.json", *SUMMARY)  # or it is damaged
            if not (folder / "config.json").exists():
                raise InputError(f"{folder}: a run without its config.json")
        if (folder / "config.json").exists():
            of = int(read_json(folder / "config.json", "rounds")["rounds"])
        metrics = Rows(folder / "metrics.jsonl").read()
        done = _last_round(folder / "rounds.jsonl")
    except (InputError, ValueError, TypeError) as error:
        return _unreadable(name, error, results)
    last: Mapping[str, Any] = metrics[-1] if metrics else {}
    left = None
    if status == executors.RUNNING and metrics and of is not None:
        left = seconds_left(metrics, done, of)
    mta, asr, left = (
        short(value, 6) for value in (last.get("mta"), last.get("asr"), left)
    )
    return Standing(name, status, done, of, left, mta, asr, line)


def _unreadable(name: str, error: Exception, results: Path) -> Standing:
    """Of a run whose files are damaged; an InputError names the file itself."""
    line = str(error).replace(f"{results}/", "")
    if not isinstance(error, InputError):
        line = " ".join(f"{type(error).__name__}: {line}".split())
    return Standing(name, "unreadable", 0, None, None, None, None, line)


def seconds_left(metrics: list[dict[str, Any]], done: int, of: int) -> float | None:
    """Returns the seconds that the rounds to come take at the pace of the last ones.

    The pace is that of at most ten evaluations, without what was compiled in them; None
    if nothing was timed.
    """
    recent = metrics[-10:]
    before = metrics[-11]["round"] if len(metrics) > 10 else 0
    phases = [f"seconds_{phase}" for phase in PHASES if phase != "compile"]
    spent = sum(row.get(phase) or 0.0 for row in recent for phase in phases)
    rounds = recent[-1]["round"] - before
    return spent / rounds * (of - done) if spent and rounds > 0 else None


def _last_round(path: Path) -> int:
    """The round of the last whole line; 0 if there is none."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        try:
            return int(json.loads(line)["round"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
