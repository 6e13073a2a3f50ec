"""The largest poisoning that a defence does not notice, by bisection.

Detection need not grow with the poisoning; what is found is a value at which it was not
noticed, with one above it, by no more than the last step, at which it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.runs.files import read_json
from fedjax_sim.sweeps.executors import FAILED, FINISHED, status
from fedjax_sim.sweeps.sweep import Run, folder_name
from fedjax_sim.sweeps.worst_case import Problem


class Undetected(NamedTuple):
    """The answer for one defence; rates in percent, None: there is no such value."""

    name: str
    largest: float | None  # value that is not noticed
    found_out: float | None  # the smallest value above it that is; None: none was
    flagged: float | None  # attackers' updates excluded at the largest, mean of seeds
    mta: float | None
    asr: float | None
    runs: list[str]  # of the largest


class _Trial(NamedTuple):
    flagged: float
    mta: float
    asr: float | None
    runs: list[str]


def check_ends(given: Sequence[Problem], key: str, ends: tuple[float, float]) -> None:
    """Refuses, before anything runs, what `bisect` could not try.

    Raises:
      InputError: no such key, or one that does not allow both ends and what lies
        between them.
    """
    for problem in given:
        for value in (*ends, sum(ends) / 2):
            try:
                _with_value(problem, key, value)
            except InputError as error:
                raise InputError(
                    f"--undetected={key}=...: the interval is halved, and {error}"
                ) from None


def bisect(
    given: Sequence[Problem],
    key: str,
    ends: tuple[float, float],
    trials: int,
    most_flagged: float,
    root: Path,
    carry_out: Callable[[list[Run]], bool],
) -> list[Undetected] | None:
    """Halves the interval of every defence at the same time.

    Args:
      given: of `worst_case.problems`; their defaults are what is tried.
      key: number of the config, such as `attack.dpr`.
      ends: its smallest and largest value.
      trials: values to try, the two ends first.
      most_flagged: percent of the attackers' updates; above it they are found out.
      root: folder of the run directories.
      carry_out: carries out runs in `root`; False: it was stopped.

    Returns:
      An answer for each defence; None if it was stopped, or other processes have not
      yet finished: the same call goes on from there.

    Raises:
      InputError: no such key, or a value that it does not allow, or a run that failed.
    """
    passed: list[tuple[float, _Trial] | None] = [None for _ in given]
    noticed: list[float | None] = [None for _ in given]
    for index in range(trials):
        values = [
            ends[1 - index] if index < 2 else _between(below, above)
            for below, above in zip(passed, noticed, strict=True)
        ]
        waves = [
            [] if value is None else _with_value(problem, key, value)
            for problem, value in zip(given, values, strict=True)
        ]
        runs = [run for wave in waves for run in wave]
        if not runs:
            break
        if not carry_out(runs):
            return None
        found = _read(runs, root)
        if found is None:
            return None
        for k, (value, wave) in enumerate(zip(values, waves, strict=True)):
            if value is None:
                continue
            trial = _trial([found[run.folder] for run in wave], wave)
            below = passed[k]
            if trial.flagged > most_flagged:
                noticed[k] = value
            elif below is None or value > below[0]:
                passed[k] = value, trial
    return [
        Undetected(
            problem.name,
            below[0] if below else None,
            above,
            below[1].flagged if below else None,
            below[1].mta if below else None,
            below[1].asr if below else None,
            below[1].runs if below else [],
        )
        for problem, below, above in zip(given, passed, noticed, strict=True)
    ]


def _between(below: tuple[float, _Trial] | None, above: float | None) -> float | None:
    """The middle; None where even the smallest is found out, or nothing is."""
    return None if below is None or above is None else (below[0] + above) / 2


def _with_value(problem: Problem, key: str, value: float) -> list[Run]:
    made = []
    for run in problem.default.runs:
        config = resolve(override(to_dict(run.config), {key: value}))
        name = f"{run.name},{key}={value:g}"
        made.append(Run(name, folder_name(config), config, run.values))
    return made


def _read(runs: Sequence[Run], root: Path) -> dict[str, dict] | None:
    found = {}
    for run in runs:
        folder = root / run.folder
        state = status(folder)
        if state == FAILED:
            reason = (folder / "error.txt").read_text().partition("\n")[0]
            raise InputError(f"{run.name} failed: {reason}")
        if state != FINISHED:
            return None
        found[run.folder] = read_json(folder / "summary.json", "final", "detection")
    return found


def _trial(summaries: Sequence[dict], runs: Sequence[Run]) -> _Trial:
    shares = []
    for summary in summaries:
        detection = summary["detection"]
        caught, missed = detection["true_positives"], detection["false_negatives"]
        shares.append(100 * caught / max(caught + missed, 1))
    finals = [summary["final"] for summary in summaries]
    rates = [final.get("asr") for final in finals]
    known = [rate for rate in rates if rate is not None]
    return _Trial(
        mean(shares),
        mean(final["mta"] for final in finals),
        mean(known) if known else None,
        [run.folder for run in runs],
    )
