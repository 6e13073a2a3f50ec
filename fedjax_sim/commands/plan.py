"""What a layout would run: the runs, what is compiled, and estimated hours.

Nothing is read but the configs: the data need not be here.
"""

from collections.abc import Sequence
from pathlib import Path

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.experiment import program
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.target import published_chip
from fedjax_sim.runs.cost import RunCost, run_cost, speed_here
from fedjax_sim.runs.files import SUMMARY, read_json
from fedjax_sim.runs.programs import Programs
from fedjax_sim.runs.separate import Separate, takes
from fedjax_sim.sweeps.executors import FINISHED, WAITING, grouped, status
from fedjax_sim.sweeps.sweep import Run

_SHOWN = 200  # runs in the list


def plan(runs: Sequence[Run], target: str | None, root: Path | None) -> str:
    """Lists runs with their arithmetic, and sums it up.

    Args:
      runs: of a layout.
      target: a device by name, such as `cuda:h100`; None: this machine only.
      root: of run directories that may be there already.

    Raises:
      InputError: a config that cannot be built, or no such target.
    """
    chip = published_chip(target) if target is not None else None
    costs = _costs(runs)
    states = {run.folder: WAITING for run in runs}
    if root is not None:
        states = {run.folder: status(root / run.folder) for run in runs}
    lines = [
        f"{states[run.folder]:11}  {costs[run.folder].flop / 1e12:12.4g} TFLOP  "
        f"{costs[run.folder].gib:7.2f} GiB  {run.folder}  {run.name}"
        for run in runs[:_SHOWN]
    ]
    if len(runs) > _SHOWN:
        lines.append(f"... and {len(runs) - _SHOWN} more")
    left = [run for run in runs if states[run.folder] != FINISHED]
    total = sum(costs[run.folder].flop for run in left)
    lines.append(
        f"{len(runs)} runs, {len(left)} to do; to compile: {len(grouped(left))} "
        f"programs; {total / 1e12:.4g} TFLOP of matrix products and convolutions"
    )
    here = speed_here()
    lines.append(
        f"here, at the {here / 1e9:.3g} GFLOP/s of a matrix product: at least "
        f"{total / here / 3600:.3g} hours"
    )
    if chip is not None:
        lines.append(
            f"{target}, at its published {chip.flops / 1e12:.4g} TFLOP/s: at least "
            f"{total / chip.flops / 3600:.3g} hours"
        )
    lines.append(
        "runs of small networks take some times as long: they move memory and start "
        "programs, too; loops of unknown length count once"
    )
    return "\n".join(lines)


def plan_in_pieces(runs: Sequence[Run], root: Path | None) -> str:
    """Sums up runs that share programs piece by piece.

    Args:
      runs: of a matrix.
      root: of run directories that may be there already; what is finished there says
        how long the others take.

    Raises:
      InputError: a config that cannot be built.
    """
    states = {run.folder: WAITING for run in runs}
    if root is not None:
        states = {run.folder: status(root / run.folder) for run in runs}
    left = [run for run in runs if states[run.folder] != FINISHED]
    programs, alone = set(), 0
    for run in {program.identity(run.config): run for run in left}.values():
        built = build(run.config)
        if takes(built):
            programs |= Separate(built, Programs(), None).identities
        else:
            alone += 1
    lines = [
        f"{len(runs)} runs, {len(left)} to do; to compile: {len(programs)} pieces of "
        f"rounds, and {alone} programs of whole rounds"
    ]
    done = [run for run in runs if states[run.folder] == FINISHED]
    if root is not None and done:
        taken = [_seconds(root / run.folder) for run in done]
        each = sum(taken) / len(taken)
        lines.append(
            f"the {len(done)} finished runs took {each:.3g} s each, compilation "
            f"included: {each * len(left) / 3600:.3g} hours of a process to go"
        )
    elif left:
        costs = _costs(left[:1])
        (cost,) = costs.values()
        here = speed_here()
        lines.append(
            f"the first has {cost.flop / 1e12:.4g} TFLOP; all like it, at the "
            f"{here / 1e9:.3g} GFLOP/s of a matrix product: at least "
            f"{cost.flop * len(left) / here / 3600:.3g} hours"
        )
    return "\n".join(lines)


def _seconds(folder: Path) -> float:
    seconds = read_json(folder / "summary.json", *SUMMARY)["seconds"]
    return sum(value for value in seconds.values() if value is not None)


def _costs(runs: Sequence[Run]) -> dict[str, RunCost]:
    """By folder; runs that share a program and its length are counted once."""
    known: dict[str, RunCost] = {}
    found = {}
    for run in runs:
        config = run.config
        key = f"{program.identity(config)} {config.rounds} {config.partition}"
        if key not in known:
            try:
                known[key] = run_cost(config)
            except InputError as error:
                raise InputError(f"{run.name}: {error}") from None
            note(f"counted {len(known)}: {run.name}")
        found[run.folder] = known[key]
    return found
