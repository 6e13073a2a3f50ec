"""Running: loop, evaluate, tell, survive a kill.

Runs that share a program (`experiment.program`) may be carried out together: one
compiled call advances all of them. Each keeps a run directory of its own
(`runs.directory`), from which it may be resumed alone or in other company.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core import distributed
from fedjax_sim.core.compilation_cache import keep_programs
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.core.progress import Progress
from fedjax_sim.experiment import program
from fedjax_sim.experiment.build import Experiment, build
from fedjax_sim.experiment.config import LOCATIONS, flatten, to_dict
from fedjax_sim.experiment.data import load_data
from fedjax_sim.round import federation
from fedjax_sim.round.execution import Strategy
from fedjax_sim.runs.files import plain
from fedjax_sim.runs.fitting import fit, laid_out_as
from fedjax_sim.runs.interrupt import Interrupt
from fedjax_sim.runs.listener import Listener
from fedjax_sim.runs.programs import Programs
from fedjax_sim.runs.run import Job, Run
from fedjax_sim.runs.separate import Separate, takes
from fedjax_sim.runs.together import Together, pick

EXIT_INTERRUPTED = 75  # a checkpoint was written, the same command resumes
# The device returns at least so often: a signal waits no longer.
SECONDS_PER_CALL = 20.0


def run(
    config: Config,
    workdir: Path | str,
    name: str = "run",
    listeners: Sequence[Listener] = (),
    dataset: Dataset | None = None,
    programs: Programs | None = None,
) -> tuple[int, dict[str, Any]]:
    """Runs a config in a directory, or goes on with what is there.

    Args:
      config: a resolved config.
      workdir: created if missing; see `runs.directory` for its files.
      name: for messages and the summary.
      listeners: told what happens, beside the run's own; see `runs.listener`.
      dataset: of the caller, where the config says `data.name = "arrays"`.
      programs: pieces of rounds that other runs have compiled, to use them and to add
        to them; results are the same up to the rounding of another compilation.

    Returns:
      (exit code, summary); the code is `EXIT_INTERRUPTED` after SIGTERM or SIGINT,
      and the summary then is empty.

    Raises:
      InputError: see `experiment.build.build`; also a directory in use, or of another
        config, and arguments of other types.
    """
    if not isinstance(config, Config):
        raise InputError(
            f"run() takes what resolve({{...}}) returns, not a {type(config).__name__}"
        )
    for listener in listeners:
        if not isinstance(listener, Listener):
            raise InputError(f"run() takes objects of Listener, not {listener!r}")
    folder = local_path("workdir", workdir)
    job = Job(config, folder, name, listeners, dataset)
    return run_together([job], programs=programs)[0]


def run_together(
    jobs: Sequence[Job],
    strategy: Strategy | None = None,
    programs: Programs | None = None,
) -> list[tuple[int, dict[str, Any]]]:
    """Carries out runs that share a program, compiled once.

    They may have come to different rounds: those behind catch up first. Results equal
    those of each run alone up to the rounding of differently compiled loops.

    Args:
      jobs: runs of one `program.identity`, on one data set.
      strategy: how many are stacked, as for clients; None: one after the other on a
        CPU, as many as fit the memory elsewhere.
      programs: see `run`; the runs then go one after the other.

    Returns:
      What `run` returns, for each job.

    Raises:
      InputError: see `run`.
      ValueError: the runs do not share a program.
    """
    if len({program.identity(job.config) for job in jobs}) > 1:
        raise ValueError("runs with different programs cannot be carried out together")
    keep_programs(jobs[0].config.execution.compilation_cache)
    leads = distributed.is_leader()
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        with distributed.agreement():
            runs = [stack.enter_context(Run(job, leads)) for job in jobs]
        finished = [run.summary is not None for run in runs]
        finished = distributed.from_leader(finished)
        for run, known in zip(runs, finished, strict=True):
            if known and run.summary is None:  # a process that follows
                run.summary = {}
        waiting = [run for run in runs if run.summary is None]
        for run in runs:
            if run not in waiting:
                run.say_finished()
        _carry_out(waiting, jobs[0].dataset, strategy, programs, interrupt)
        return [
            (EXIT_INTERRUPTED, {}) if run.summary is None else (0, run.summary)
            for run in runs
        ]


def _carry_out(
    runs: Sequence[Run],
    given: Dataset | None,
    strategy: Strategy | None,
    programs: Programs | None,
    interrupt: Interrupt,
) -> None:
    """Begins the runs, and carries out as many at a time as the memory holds."""
    if not runs:
        return
    with distributed.agreement() as found:
        dataset = load_data(runs[0].config, given)
        built = [build(run.config, dataset) for run in runs]
        del dataset  # the device has it
        room = built[0].target.memory // max(built[0].estimated_bytes, 1)
        size = distributed.smallest(min(max(1, room), len(runs)))
        first = None
        pieces = programs if takes(built[0]) else None
        if pieces is not None:
            size = 1
        elif built[0].target.backend != "cpu":
            # The compiled program says what it needs.
            fitted = fit(built[:size], strategy, _origin(built), _capacity(built))
            first = fitted.together
            built = [laid_out_as(fitted.built[0], one) for one in built]
        for run, one in zip(runs, built, strict=True):
            run.begin(one)
        found.facts = plain([[_numbers(one.config), one.facts] for one in built])
    rounds = distributed.from_leader([run.done for run in runs])
    for run, done in zip(runs, rounds, strict=True):
        run.done = int(done)
    together: Together | Separate
    for i in range(0, len(runs), size):
        part = slice(i, i + size)
        if pieces is not None:
            together = Separate(built[i], pieces, _origin(built))
        else:
            together = first or Together(built[part], strategy, _origin(built))
        first = None
        if not _loop(runs[part], built[part], together, interrupt):
            break
    for run in runs:
        if run.summary is None:
            run.interrupt()


def _numbers(config: Config) -> dict[str, Any]:
    """The config without the places of files, in which processes may differ."""
    values = flatten(to_dict(config))
    return {key: value for key, value in values.items() if key not in LOCATIONS}


def _origin(built: Sequence[Experiment]) -> float | None:
    """What the clock of the phases counts from, where there is one."""
    return time.monotonic() if built[0].config.execution.clock else None


def _capacity(built: Sequence[Experiment]) -> int:
    """Most rounds of a call: those until the next evaluation."""
    config = built[0].config
    return min(config.evaluation.every, config.rounds)


def _loop(
    runs: Sequence[Run],
    built: Sequence[Experiment],
    together: Together | Separate,
    interrupt: Interrupt,
) -> bool:
    """Runs to the end or to a signal; returns whether to the end."""
    config, parts = runs[0].config, built[0].parts
    every = config.evaluation.every
    origin = together.origin
    name = runs[0].name
    if len(runs) > 1:
        name += f" and {len(runs) - 1} more"
    behind = min(run.done for run in runs)
    pace: float | None = None
    with Progress(name, config.rounds, behind, distributed.is_leader()) as progress:
        states = together.first_states([run.restore for run in runs])
        begun = time.monotonic()
        step, evaluate = together.compile(states, _capacity(built))
        took = time.monotonic() - begun + together.seconds
        for run in runs:
            run.add_seconds(compile=took / len(runs))
        progress.compiled(took)
        stop = distributed.any_process(interrupt.requested)
        while not stop and behind < config.rounds:
            until = min((behind // every + 1) * every, config.rounds)
            counts = _next_rounds(runs, config, until, pace)
            begun = time.monotonic()
            states, (reports, clock) = step(states, np.array(counts, np.int32))
            took = time.monotonic() - begun
            pace = took / max(counts)
            stop = distributed.any_process(interrupt.requested)
            phases: Mapping[str, float] = {"rounds": took}
            if origin is not None:
                phases = _phases(clock, counts, begun - origin)
            moved = [k for k, count in enumerate(counts) if count]
            for k in moved:
                runs[k].add_rounds(pick(reports, k), counts[k])
                runs[k].add_seconds(**{p: t / len(moved) for p, t in phases.items()})
            arrived = [k for k in moved if runs[k].done == until]
            if arrived:
                begun = time.monotonic()
                found = evaluate(states)
                took = (time.monotonic() - begun) / len(arrived)
                for k in arrived:
                    runs[k].add_seconds(evaluate=took)
                    runs[k].add_evaluation(found[k], together.of(states, k))
                progress.show(until, [runs[k].metrics[-1] for k in arrived])
            behind = min(run.done for run in runs)
            progress.advance(behind)
            for k, run in enumerate(runs):
                last = stop or run.done == config.rounds
                run.reached(lambda own=states, k=k: together.of(own, k), last)
    for k, run in enumerate(runs):
        if run.done < config.rounds:
            continue
        expelled = None
        if federation.can_expel(parts):
            main, inputs = together.of(states, k)[0], distributed.local(built[k].inputs)
            expelled = ~np.asarray(federation.eligible(parts, main, inputs))
        run.finish(expelled)
    return all(run.summary is not None for run in runs)


def _next_rounds(
    runs: Sequence[Run], config: Config, until: int, pace: float | None
) -> list[int]:
    """How many rounds each run advances in the next call, at most to `until`.

    Long calls are cut, so that signals and checkpoints need not wait.

    Args:
      runs: of the call.
      config: of one of them.
      until: the next round to evaluate.
      pace: seconds of a round; None before the first.
    """
    limit = 1 if pace is None else max(1, int(SECONDS_PER_CALL / pace))
    by_rounds = config.checkpoint.every_rounds
    counts = []
    for run in runs:
        count = min(max(until - run.done, 0), limit)
        if by_rounds is not None:
            count = min(count, by_rounds - run.done % by_rounds)
        counts.append(count)
    return [int(count) for count in distributed.from_leader(counts)]


def _phases(clock: np.ndarray, counts: Sequence[int], begun: float) -> dict[str, float]:
    """Returns the seconds that all runs trained and defended.

    Args:
      clock: i32 [R, capacity, 2, 2], (s, us) at the end of each phase of a round.
      counts: rounds of each run.
      begun: of the call, on the same clock.
    """
    ends = [clock[k, :count].reshape(-1, 2) for k, count in enumerate(counts)]
    times = np.concatenate([x[:, 0] + x[:, 1] / 1e6 for x in ends])
    phase = np.arange(len(times)) % 2  # training, then defence
    order = np.argsort(times, kind="stable")  # runs side by side end together
    spans = np.diff(times[order], prepend=begun).clip(0)
    return {
        name: float(spans[phase[order] == index].sum())
        for index, name in enumerate(("train", "defend"))
    }
