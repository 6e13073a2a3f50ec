"""The command line of a search: a sweep file in, the worst configurations out."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_sim.commands import sweep as sweep_command
from fedjax_sim.commands.flags import run_command, written_to
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.runs.files import write_json
from fedjax_sim.runs.loop import EXIT_INTERRUPTED
from fedjax_sim.sweeps import worst_case
from fedjax_sim.sweeps.executors import FAILED, status
from fedjax_sim.sweeps.frontier import frontier
from fedjax_sim.sweeps.sweep import load_sweep
from fedjax_sim.sweeps.undetected import Undetected, bisect, check_ends
from fedjax_sim.sweeps.worst_case import Found, Outcome, Problem, Rung

USAGE = (
    "usage: {command} --sweep=FILE.py --results=DIR --budget=RUNS "
    "[--config.section.key=value ...]"
)


def make_flags() -> flags.FlagValues:
    """The flags of a sweep, and those of the search."""
    values = sweep_command.make_flags()
    flags.DEFINE_float(
        "budget",
        None,
        "Runs of full length for each defence; shorter ones count their share.",
        lower_bound=0.0,
        flag_values=values,
    )
    for name, default, text in (
        ("mta", 80.0, "Lambda: only configurations of at least this MTA, percent."),
        ("asr", 85.0, "Tau: the attack is consistent from this ASR on, percent."),
    ):
        flags.DEFINE_float(
            name, default, text, lower_bound=0.0, upper_bound=100.0, flag_values=values
        )
    flags.DEFINE_enum(
        "objective",
        "asr",
        list(worst_case.OBJECTIVES),
        "What is worst: the highest ASR, or (of any attack) the most lost accuracy, "
        "against the same runs without attack.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "least_rounds",
        None,
        "Rounds of the shortest runs; by default a ninth of a run.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "per",
        ["defense", "client_defense"],
        "Sections or keys by which runs are divided into searches.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "undetected",
        None,
        "KEY=LOW,HIGH: instead of a search, the largest value between them, such as of "
        "attack.dpr, with which the default of a defence lets attackers through.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "flagged",
        50.0,
        "With --undetected: attackers are found out where more than this share of what "
        "they send is excluded, percent; updates with NaN or Inf do not count.",
        lower_bound=0.0,
        upper_bound=100.0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "out", None, "JSON file; by default worst_case.json there.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    required = ["sweep", "results", "budget"]
    return run_command(_run, argv, make_flags(), USAGE, required)


def _run(values: flags.FlagValues, changes: Mapping[str, Any]) -> int:
    sweep = load_sweep(values.sweep)
    given = worst_case.problems(
        sweep,
        changes,
        values.only,
        values.per,
        values.objective,
        alone=values.undetected is not None,
    )
    if values.undetected is not None:
        return _bisect(given, values)
    return _search(given, values)


def _bisect(given: list[Problem], values: flags.FlagValues) -> int:
    root = local_path("--results", values.results)
    path = _target(values.out, root / "undetected.json")
    key, low, high = parse_between(values.undetected)
    check_ends(given, key, (low, high))
    seeds = max(len(problem.default.runs) for problem in given)
    trials = int(values.budget // seeds)
    if trials < 2:
        raise InputError(
            f"--budget={values.budget:g} must be at least {2 * seeds}: both ends of "
            f"--undetected={values.undetected}, each with all its seeds"
        )
    print(
        f"{key} between {low:g} and {high:g}: {trials} values of it, with {seeds} runs "
        f"of each of {len(given)} defences",
        flush=True,
    )
    if values.dry_run:
        return 0
    found = bisect(
        given,
        key,
        (low, high),
        trials,
        values.flagged,
        root,
        lambda runs: sweep_command.carry_out(runs, root, values),
    )
    if found is None:
        print("not finished; the same command goes on from there")
        return EXIT_INTERRUPTED
    print(undetected_table(found, key))
    with written_to("--out", path):
        write_json(path, {one.name: one._asdict() for one in found})
    print(f"written: {path}")
    return 0


def _target(out: str | None, default: Path) -> Path:
    """Where the answer goes, checked before any run; the sweep makes its own folder.

    Raises:
      InputError: a file cannot be written there.
    """
    path = local_path("--out", out or default)
    if path.is_dir():
        raise InputError(f"--out={path}: is a folder; must be a file")
    if out and not path.parent.is_dir():
        raise InputError(f"--out={path}: there is no folder {path.parent}")
    if out and not os.access(path.parent, os.W_OK):
        raise InputError(f"--out={path}: {path.parent} cannot be written to")
    return path


def parse_between(text: str) -> tuple[str, float, float]:
    """Reads KEY=LOW,HIGH.

    Raises:
      InputError: anything else.
    """
    key, _, ends = text.partition("=")
    try:
        low, high = map(float, ends.split(","))
    except ValueError:
        low = high = 0.0
    key = key.removeprefix("config.")
    if not key or not (math.isfinite(low) and low < high < math.inf):
        raise InputError(
            f"--undetected={text}: KEY=LOW,HIGH is expected, two numbers, the smaller "
            "one first"
        )
    return key, low, high


def undetected_table(found: Sequence[Undetected], key: str) -> str:
    """A line for each defence."""
    diverged = any(one.diverged is not None for one in found)
    rows = [
        {
            "defence": one.name,
            f"largest {key}": one.largest,
            "found out from": one.found_out,
            **({"diverges from": one.diverged} if diverged else {}),
            "flagged %": one.flagged,
            "MTA %": one.mta,
            "ASR %": one.asr,
        }
        for one in found
    ]
    return text_table(list(rows[0]), rows)


def _search(given: list[Problem], values: flags.FlagValues) -> int:
    root = local_path("--results", values.results)
    path = _target(values.out, root / "worst_case.json")
    candidates = max(len(problem.others) for problem in given)
    seeds = max(len(c.all_runs) for p in given for c in (p.default, *p.others))
    rounds = given[0].default.runs[0].config.rounds
    least = values.least_rounds or -(-rounds // worst_case.REDUCTION**2)
    every = None
    if worst_case.goes_on(given):
        every = given[0].default.runs[0].config.evaluation.every
    ladder = worst_case.plan(candidates, seeds, rounds, values.budget, least, every)
    most = worst_case.cost(ladder, seeds, continues=every is not None)
    print(_plan(given, ladder, seeds, candidates, values.budget, most), flush=True)
    if values.dry_run:
        return 0
    found = worst_case.search(
        given,
        ladder,
        values.mta,
        root,
        lambda runs: sweep_command.carry_out(runs, root, values),
    )
    if found is None:
        print("not finished; the same command goes on from there")
        return EXIT_INTERRUPTED
    print(table(found, values.mta, values.asr))
    print(frontier_table(found))
    with written_to("--out", path):
        write_json(path, record(found, ladder, values))
    print(f"written: {path}")
    states = [status(root / run.folder) for answer in found for run in answer.used]
    return sweep_command.EXIT_FAILED if FAILED in states else 0


def _plan(
    given: Sequence[Problem],
    ladder: Sequence[Rung],
    seeds: int,
    candidates: int,
    budget: float,
    most: float,
) -> str:
    """What will be run, in two or three lines."""
    names = ", ".join(problem.name for problem in given)
    steps = ", then ".join(
        f"{rung.candidates} for {rung.rounds} rounds" for rung in ladder
    )
    lines = [
        f"searched: {names}; each up to {candidates} configurations and the default, "
        f"{seeds} run{'s' * (seeds != 1)} of each",
        f"configurations: {steps}; at most {most:.4g} of "
        f"{budget:g} runs of full length each",
    ]
    if ladder[0].candidates < candidates:
        lines.append(
            f"the budget allows for {ladder[0].candidates} of {candidates}, drawn at "
            "random"
        )
    return "\n".join(lines)


def table(found: Sequence[Found], least_mta: float, least_asr: float) -> str:
    """Default and worst configuration of each defence; and who has no answer."""
    rows, remarks = [], []
    for answer in found:
        name, best = answer.problem.name, answer.best
        kinds = [("default", answer.default)]
        if best.acceptable(least_mta) and best is not answer.default:
            kinds.append(("worst", best))
        rows += [_row(name, kind, o, least_mta, least_asr) for kind, o in kinds]
        if best.mta is None:
            remarks.append(f"{name}: no answer, all runs failed")
        elif not best.acceptable(least_mta):
            settings = ", ".join(f"{k}={v}" for k, v in best.candidate.settings.items())
            remarks.append(
                f"{name}: no configuration that was run in full reaches MTA >= "
                f"{least_mta:g}; the highest is {best.useful_mta:.2f} with {settings}"
            )
        elif best is answer.default:
            remarks.append(f"{name}: the default is the worst that was found")
        remarks.append(
            f"{name}: {len(answer.used)} runs, {answer.cost:.4g} counted in full length"
        )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return "\n".join([text_table(columns, rows), *remarks])


def frontier_table(found: Sequence[Found]) -> str:
    """What harm is to be had at which cost of accuracy, with bands of the seeds."""
    rows = [
        {
            "defence": answer.problem.name,
            **point.settings,
            "benign cost %": _band(point.cost, point.cost_std),
            "harm %": _band(point.harm, point.harm_std),
        }
        for answer in found
        for point in frontier(answer.full)
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "frontier of what ran in full (mean ± std of the seeds):"
    return "\n".join([head, text_table(columns, rows)]) if rows else f"{head} empty"


def _band(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _row(
    name: str, kind: str, found: Outcome, least_mta: float, least_asr: float
) -> dict[str, Any]:
    steady = _consistent(found, least_asr)
    head = {"defence": name, "configuration": kind, **found.candidate.settings}
    if found.candidate.clean:
        return {
            **head,
            "MTA %": found.mta,
            "without attack %": found.clean_mta,
            "lost %": found.harm,
        }
    return {
        **head,
        "MTA %": found.mta,
        "ASR %": found.asr,
        f"least ASR % at MTA >= {least_mta:g}": found.least_asr,
        f"consistent at {least_asr:g}": {None: "-", True: "yes", False: "no"}[steady],
    }


def _consistent(found: Outcome, least_asr: float) -> bool | None:
    """DROP's equation 3; None: in a run no round has an acceptable MTA."""
    if found.least_rounds == 0 or found.least_asr is None:
        return None
    return found.least_asr >= least_asr


def record(
    found: Sequence[Found], ladder: Sequence[Rung], values: flags.FlagValues
) -> dict[str, Any]:
    """What worst_case.json holds; rates in percent, null = undefined."""

    def entry(result: Outcome) -> dict[str, Any]:
        return {
            "settings": result.candidate.settings,
            "mta": result.mta,
            "asr": result.asr,
            "clean_mta": result.clean_mta,
            "acceptable": result.acceptable(values.mta),
            "least_asr": result.least_asr,
            "rounds_acceptable": result.least_rounds,
            "consistent": _consistent(result, values.asr),
            "runs": [run.folder for run in result.candidate.all_runs],
        }

    return {
        "sweep": values.sweep,
        "objective": values.objective,
        "lambda": values.mta,
        "tau": values.asr,
        "budget": values.budget,
        "rungs": [rung._asdict() for rung in ladder],
        "defenses": {
            f.problem.name: {
                "default": entry(f.default),
                "worst": entry(f.best) if f.best.acceptable(values.mta) else None,
                "frontier": [point._asdict() for point in frontier(f.full)],
                "runs": len(f.used),
                "cost": f.cost,
            }
            for f in found
        },
    }
