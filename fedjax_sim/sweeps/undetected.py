"""The largest poisoning that a defence does not notice, by bisection.

Detection need not grow with the poisoning; what is found is a value at which it was not
noticed, with one above it, by no more than the last step, at which it was.

An update that is not finite is excluded whatever the rule: nobody found it out. Where
at least half of what attackers send is like that, their training diverged, and the
value is no answer.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.runs.files import Rows, read_json
from fedjax_sim.sweeps.executors import FAILED, FINISHED, status
from fedjax_sim.sweeps.sweep import Run, folder_name
from fedjax_sim.sweeps.worst_case import Problem


class Undetected(NamedTuple):
    """The answer for one defence; rates in percent, None: there is no such value."""

    name: str
    largest: float | None  # value that is not noticed
    found_out: float | None  # the smallest value above it that is; None: none was
    diverged: float | None  # the smallest above it, where attackers diverged there
    # Percent of the attackers' finite updates excluded at the largest, mean of seeds.
    flagged: float | None
    mta: float | None
    asr: float | None
    runs: list[str]  # of the largest


class _Trial(NamedTuple):
    flagged: float
    lost: float  # percent of the attackers' updates that are not finite
    mta: float
    asr: float | None
    runs: list[str]


class _Limit(NamedTuple):
    """The smallest value that was no answer, and why."""

    value: float
    diverged: bool  # the attackers did; otherwise they were found out


_DIVERGED = 50.0  # percent of what attackers send


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
      most_flagged: percent of the attackers' finite updates; above it they are found
        out.
      root: folder of the run directories.
      carry_out: carries out runs in `root`; False: it was stopped.

    Returns:
      An answer for each defence; None if it was stopped, or other processes have not
      yet finished: the same call goes on from there.

    Raises:
      InputError: no such key, or a value that it does not allow, or a run that failed.
    """
    passed: list[tuple[float, _Trial] | None] = [None for _ in given]
    limits: list[_Limit | None] = [None for _ in given]
    for index in range(trials):
        values = [
            ends[1 - index] if index < 2 else _between(below, above)
            for below, above in zip(passed, limits, strict=True)
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
            trial = _trial([found[run.folder] for run in wave], wave, root)
            below = passed[k]
            diverged = trial.lost >= _DIVERGED
            if diverged or trial.flagged > most_flagged:
                limits[k] = _Limit(value, diverged)
            elif below is None or value > below[0]:
                passed[k] = value, trial
    return [
        Undetected(
            problem.name,
            below[0] if below else None,
            above.value if above and not above.diverged else None,
            above.value if above and above.diverged else None,
            below[1].flagged if below else None,
            below[1].mta if below else None,
            below[1].asr if below else None,
            below[1].runs if below else [],
        )
        for problem, below, above in zip(given, passed, limits, strict=True)
    ]


def _between(below: tuple[float, _Trial] | None, above: _Limit | None) -> float | None:
    """The middle; None where even the smallest is found out, or nothing is."""
    return None if below is None or above is None else (below[0] + above.value) / 2


def _with_value(problem: Problem, key: str, value: float) -> list[Run]:
    made = []
    for run in problem.default.runs:
        config = resolve(override(to_dict(run.config), {key: value}))
        name = f"{run.name},{key}={value:g}"
        made.append(Run(name, folder_name(config), config, run.values))
    return made


def shares(rounds: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What became of the attackers' updates in a run, in percent.

    Args:
      rounds: rows of rounds.jsonl.

    Returns:
      Of the finite ones those that were excluded; of all those that are not finite.
    """
    sent = lost = caught = 0
    for row in rounds:
        attackers, excluded = set(row["malicious"]), set(row["excluded"])
        broken = row["scores"]["non_finite"]
        pairs = zip(row["clients"], broken, strict=True)
        nowhere = {client for client, is_broken in pairs if is_broken}
        sent += len(attackers)
        lost += len(attackers & nowhere)
        caught += len(attackers & excluded - nowhere)
    return 100 * caught / max(sent - lost, 1), 100 * lost / max(sent, 1)


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
        found[run.folder] = read_json(folder / "summary.json", "final")
    return found


def _trial(summaries: Sequence[dict], runs: Sequence[Run], root: Path) -> _Trial:
    rounds = [Rows(root / run.folder / "rounds.jsonl").read() for run in runs]
    flagged, lost = zip(*map(shares, rounds), strict=True)
    finals = [summary["final"] for summary in summaries]
    rates = [final.get("asr") for final in finals]
    known = [rate for rate in rates if rate is not None]
    return _Trial(
        mean(flagged),
        mean(lost),
        mean(final["mta"] for final in finals),
        mean(known) if known else None,
        [run.folder for run in runs],
    )
