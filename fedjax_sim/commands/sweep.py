"""The command line of a sweep: a sweep file, or a paper's table or figure, in; run
directories and a table out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import UsageError, run_command
from fedjax_sim.commands.run import table
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.paths import local_path
from fedjax_sim.experiment.config_files import parse_value
from fedjax_sim.experiment.memory import GIB
from fedjax_sim.papers import layouts, load_layout
from fedjax_sim.papers.cells import points_of
from fedjax_sim.round.execution import parse_strategy
from fedjax_sim.runs.files import SUMMARY, read_json
from fedjax_sim.runs.loop import EXIT_INTERRUPTED
from fedjax_sim.runs.programs import Programs
from fedjax_sim.sweeps import executors, order
from fedjax_sim.sweeps.matrix import (
    PIECES,
    MatrixCell,
    load_matrix,
    matrices,
    matrix_cells,
    matrix_sweep,
)
from fedjax_sim.sweeps.sweep import Run, Sweep, expand, load_sweep

EXIT_FAILED = 1
# Carries out (groups, root, report=..., strategy=...); False: stopped before the end.
Executor = Callable[..., bool]
USAGE = (
    "usage: {command} --sweep=FILE.py|--layout=NAME --results=DIR "
    "[--config.section.key=value ...]"
)


def make_flags() -> flags.FlagValues:
    """The flags of `launch/sweep.py` beside `--config.section.key=value`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "sweep", None, "Python file that defines get_sweep().", flag_values=values
    )
    flags.DEFINE_string(
        "layout",
        None,
        f"A paper's table or figure, or a matrix: {', '.join(_layouts())}.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "cells", [], "FIELD=LABEL[,LABEL]: only these of a layout.", flag_values=values
    )
    flags.DEFINE_bool(
        "small", False, "The layout's small version, for a CPU.", flag_values=values
    )
    flags.DEFINE_string(
        "target",
        None,
        "With --layout --dry_run: also the hours on cuda:h100, cuda:a100, tpu:v6e, ...",
        flag_values=values,
    )
    flags.DEFINE_string(
        "results", None, "Folder of the run directories.", flag_values=values
    )
    flags.DEFINE_integer(
        "processes",
        1,
        "Runs at the same time, each with its share of the cores; 1: in this process.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "cluster",
        None,
        ["slurm", "local"],
        "Submit the runs as jobs to Slurm; local: to processes here, to try it out.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        8,
        "With --cluster: at most so many jobs, which share the runs.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "submit",
        [],
        "With --cluster: KEY=VALUE, a parameter of submitit (timeout_min, mem_gb, "
        "cpus_per_task, gpus_per_node, slurm_partition, ...); may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "together",
        None,
        "Runs with the same program: map (compiled once, one at a time), vmap or "
        "chunk:K (stacked), alone; auto: map on a CPU, what fits the memory elsewhere. "
        "pieces: one at a time, with programs for training, attack and rule that are "
        "shared by all runs with the same; by default as the sweep says, or auto.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "only",
        [],
        "KEY=VALUE[,VALUE...]: only runs with such a config; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run", False, "List the runs and how far they are.", flag_values=values
    )
    return values


def _layouts() -> list[str]:
    return sorted([*layouts(), *matrices()])


def check_layout(name: str) -> None:
    """Refuses a name that is neither of a paper's table or figure nor of a matrix.

    Raises:
      InputError: with what there is.
    """
    if name not in _layouts():
        hint = did_you_mean(name, _layouts())
        raise InputError(f"--layout={name} does not exist; {hint}")


def refused_lines(cells: Sequence[MatrixCell]) -> list[str]:
    """How many cells cannot be, and why; a reason a line."""
    reasons = Counter(cell.refused for cell in cells if cell.refused is not None)
    total = f"{len(cells)} cells, {reasons.total()} of them cannot be"
    return [total, *(f"  {number}: {why}" for why, number in reasons.items())]


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_sweep, argv, make_flags(), USAGE, [])


def _sweep(values: flags.FlagValues, changes: Mapping[str, Any]) -> int:
    if (values.sweep is None) == (values.layout is None):
        raise UsageError("--sweep or --layout must be given, one of them")
    planned = values.layout is not None and values.dry_run
    if values.results is None and not values.dry_run:
        raise UsageError("--results must be given")
    matrix = values.layout in matrices()
    if values.target is not None and (matrix or not planned):
        raise InputError("--target belongs to a paper's --layout with --dry_run")
    _how(values.together or "auto")  # also where nothing runs
    if values.sweep is not None:
        if values.cells or values.small:
            raise InputError("--cells and --small belong to a --layout")
        sweep = load_sweep(values.sweep)
    elif matrix:
        found = load_matrix(values.layout)
        cells = matrix_cells(found, values.cells, values.small)
        print("\n".join(refused_lines(cells)), flush=True)
        sweep = matrix_sweep(found, cells)
    else:
        check_layout(values.layout)
        layout = load_layout(values.layout)
        sweep = Sweep("", points_of(layout, values.cells, values.small))
    runs = expand(sweep, changes, values.only)
    if planned and matrix:
        from fedjax_sim.commands.plan import plan_in_pieces

        root = values.results and local_path("--results", values.results)
        print(plan_in_pieces(runs, root))
        return 0
    if planned:
        from fedjax_sim.commands.plan import plan  # which counts with JAX

        root = values.results and local_path("--results", values.results)
        print(plan(runs, values.target, root))
        return 0
    if values.dry_run:
        given = values.results
        print(listing(runs, given and local_path("--results", given)))
        return 0
    root = local_path("--results", values.results)
    return _run_all(runs, root, values, sweep.together)


def _how(text: str) -> executors.How:
    """How runs are carried out; None: those of one program together, as it fits."""
    if text in ("auto", "alone"):
        return None
    if text == PIECES:
        return Programs()
    return parse_strategy(text, key="--together", others=f"auto, alone, {PIECES}")


def _executor(values: flags.FlagValues) -> Executor:
    """How the flags say to carry out groups of runs."""
    if values.cluster is None:
        for name in ("jobs", "submit"):
            if values[name].present:
                raise InputError(f"--{name} needs --cluster=slurm or --cluster=local")
        if values.processes == 1:
            return executors.run_here
        return partial(executors.run_pool, processes=values.processes)
    if values.processes > 1:
        raise InputError(
            f"--processes={values.processes}: --cluster={values.cluster} carries out "
            "the runs elsewhere; allowed: --jobs"
        )
    parameters = {}
    for text in values.submit:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--submit={text}: KEY=VALUE is expected")
        parameters[key] = parse_value(value)
    try:
        from fedjax_sim.sweeps.slurm import run_jobs
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise InputError(
            f"--cluster={values.cluster} needs: pip install 'fedjax_sim[slurm]'"
        ) from None
    return partial(
        run_jobs, cluster=values.cluster, jobs=values.jobs, parameters=parameters
    )


def carry_out(
    runs: Sequence[Run], root: Path, values: flags.FlagValues, usual: str = "auto"
) -> bool:
    """Carries out the runs that are not finished, and tells of each.

    Args:
      runs: of a sweep.
      root: folder of the run directories.
      values: of `make_flags`, which say how.
      usual: `--together`, where it is not given.

    Returns:
      False if a signal stopped it.

    Raises:
      InputError: the folder cannot be written; see also `executors.check`.
    """
    together = values.together or usual
    strategy = _how(together)
    limit = 1 if together == "alone" else executors.GROUP_LIMIT
    execute = _executor(values)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--results={root}: {error.strerror}") from None
    waiting = [r for r in runs if not (root / r.folder / "summary.json").exists()]
    width = values.jobs if values.cluster else values.processes
    if together == PIECES:
        groups = executors.in_pieces(waiting, width, limit)
        print(f"{counts(runs, root)}; in {len(groups)} groups", flush=True)
    else:
        groups = executors.grouped(waiting, width, limit)
        print(f"{counts(runs, root)}; to compile: {len(groups)} programs", flush=True)
    ended = 0

    def report(run: Run, outcome: str) -> None:
        nonlocal ended
        if not ended:  # the first: what is asked for can be, and the folder has runs
            order.record(root, [run.folder for run in runs])
        ended += 1
        text = f"[{ended}/{len(waiting)}] {outcome}: {run.name}"
        if outcome == executors.FAILED:
            text += f": {_error(root / run.folder)}"
        if outcome == executors.RUNNING:
            text += ": left to the process that works there"
        print(text, flush=True)

    if not waiting:
        order.record(root, [run.folder for run in runs])
        return True
    return execute(groups, root, report=report, strategy=strategy)


def _run_all(runs: list[Run], root: Path, values: flags.FlagValues, usual: str) -> int:
    completed = carry_out(runs, root, values, usual)
    found = {run.folder: executors.status(root / run.folder) for run in runs}
    done = [run for run in runs if found[run.folder] == executors.FINISHED]
    summaries, damaged = [], []
    for run in done:
        try:
            summary = read_json(root / run.folder / "summary.json", *SUMMARY)
        except InputError as error:
            damaged.append(f"unreadable: {run.name}: {error}")
        else:
            summaries.append({**summary, "name": run.name})
    if summaries:
        print(table(summaries))
    for line in damaged:
        print(line)
    for run in runs:
        if found[run.folder] == executors.FAILED:
            print(f"failed: {run.name}: {_error(root / run.folder)}")
    print(counts(runs, root))
    if not completed:
        print("stopped; the same command goes on from there")
        return EXIT_INTERRUPTED
    failed = damaged or executors.FAILED in found.values()
    return EXIT_FAILED if failed else 0


def _error(folder: Path) -> str:
    path = folder / "error.txt"
    reason = path.read_text().partition("\n")[0] if path.exists() else "?"
    return f"{reason} (see {path})"


def counts(runs: Sequence[Run], root: Path) -> str:
    """How many runs are how far, in one line."""
    number = Counter(executors.status(root / run.folder) for run in runs)
    words = ("finished", "running", "interrupted", "failed", "waiting")
    parts = ", ".join(f"{number[key]} {key}" for key in words if number[key])
    return f"{len(runs)} runs in {root}: {parts}"


def listing(runs: Sequence[Run], root: Path | None) -> str:
    """Every run with its status, folder and estimated memory, and what is compiled.

    Args:
      runs: of a sweep.
      root: folder of the run directories; None: none is said, so all of them wait.

    Raises:
      InputError: see `executors.check`.
    """
    sizes = executors.check(runs)
    width = max(len(run.folder) for run in runs)
    lines, left = [], []
    for run in runs:
        state = executors.WAITING
        if root is not None:
            state = executors.status(root / run.folder)
        if state != executors.FINISHED:
            left.append(run)
        size = sizes.get(run.folder)
        memory = "?" if size is None else f"{size / GIB:.2f}"
        lines.append(f"{state:11}  {run.folder:{width}}  {memory:>7} GiB  {run.name}")
    programs = len(executors.grouped(left))
    total = f"{len(runs)} runs"
    largest = max(sizes.values(), default=0) / GIB
    return "\n".join(
        [
            *lines,
            f"{counts(runs, root) if root else total}; to compile: {programs} programs",
            f"the largest run needs about {largest:.2f} GiB of device memory",
        ]
    )
