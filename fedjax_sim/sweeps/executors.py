"""How the runs of a sweep are carried out, on one machine.

Runs that share a program are carried out together (`grouped`). Run directories are the
only state: a finished one is skipped, an interrupted one goes on, one that another
process works in is left to it. So a sweep may be killed at any time, started again, or
started twice.

A run that raises is recorded in `error.txt` of its directory and does not stop the
others; the next start tries it again.
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import jax

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError, disk_full
from fedjax_sim.core.progress import note
from fedjax_sim.experiment import program
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.data import load_data
from fedjax_sim.round.execution import Strategy
from fedjax_sim.runs import loop
from fedjax_sim.runs.files import Busy
from fedjax_sim.runs.loop import run_together
from fedjax_sim.runs.programs import Programs
from fedjax_sim.runs.run import Job
from fedjax_sim.sweeps.sweep import Run

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
RUNNING, WAITING = "running", "waiting"
# Files by which a folder is known to be a run, and folders in it that hold none.
OF_A_RUN = {"config.json", "error.txt", "summary.json"}
INSIDE = {"checkpoints", "mlflow", "tensorboard", "wandb"}
ATTEMPTS = 5  # to take a lock that someone holds for a moment, to see if it is held

GROUP_LIMIT = 32  # runs together: what they report at a time, and lose to a power cut

Report = Callable[[Run, str], None]  # told of each run that ends, and how


def status(folder: Path) -> str:
    """How far a run is: one of the five words above."""
    if (folder / "summary.json").exists():
        return FINISHED
    if _locked(folder):
        return RUNNING
    if (folder / "error.txt").exists():
        return FAILED
    return INTERRUPTED if (folder / "config.json").exists() else WAITING


def _locked(folder: Path) -> bool:
    try:
        with open(folder / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def check(runs: Sequence[Run]) -> dict[str, int]:
    """Builds the runs once without starting them; those that differ in the seed, once.

    Returns:
      The bytes of device memory that a run is estimated to need, by its folder; without
      those that could not be built for another reason than the user's.

    Raises:
      InputError: what a run's config asks for and this machine or data cannot give.
    """
    datasets: dict[str, Dataset] = {}
    built: dict[str, int | None] = {}
    shapes: dict[str, str] = {}
    for run in runs:
        shape = json.dumps({k: str(v) for k, v in run.values.items() if k != "seed"})
        shapes[run.folder] = shape
        if shape in built:
            continue
        source = str(run.config.data)
        try:
            if source not in datasets:
                datasets[source] = load_data(run.config)
            found = build(run.config, datasets[source])
            built[shape] = found.estimated_bytes
        except InputError as error:
            raise InputError(f"{run.name}: {error}") from None
        except Exception:  # no mistake of the user's: the run itself will record it
            built[shape] = None
    estimates = {folder: built[shape] for folder, shape in shapes.items()}
    return {folder: size for folder, size in estimates.items() if size is not None}


def covering(runs: Sequence[Run]) -> list[Run]:
    """Returns runs that hold every section that some run has, but for the seed."""
    seen: set[str] = set()
    found = []
    for run in runs:
        sections = run.config.model_dump(exclude={"seed"})
        own = {f"{name}: {values}" for name, values in sections.items()}
        if not own <= seen:
            found.append(run)
        seen |= own
    return found


def _to_check(runs: Sequence[Run], how: "How") -> Sequence[Run]:
    """A matrix has too many runs: what is wrong with a pair alone, its run records."""
    return covering(runs) if isinstance(how, Programs) else runs


Group = Sequence[Run]  # runs that are carried out together
# How: stacked, or one by one with programs of which each process keeps the pieces.
How = Strategy | Programs | None


def grouped(
    runs: Sequence[Run], processes: int = 1, limit: int = GROUP_LIMIT
) -> list[Group]:
    """Returns the runs that share a program, in groups of at most `limit`.

    The largest groups are cut in two until there is one for each process.
    """
    by_program: dict[str, list[Run]] = {}
    for run in runs:
        by_program.setdefault(program.identity(run.config), []).append(run)
    groups: list[Group] = [
        own[i : i + limit]
        for own in by_program.values()
        for i in range(0, len(own), limit)
    ]
    while len(groups) < min(processes, len(runs)):
        largest = max(range(len(groups)), key=lambda i: len(groups[i]))
        half = len(groups[largest]) // 2
        groups[largest : largest + 1] = [groups[largest][:half], groups[largest][half:]]
    return groups


def in_pieces(
    runs: Sequence[Run], processes: int = 1, limit: int = GROUP_LIMIT
) -> list[Group]:
    """Returns the runs in groups of at most `limit`, as they come, for `Programs`.

    As in `grouped`, there is one for each process.
    """
    size = max(1, min(limit, -(-len(runs) // processes)))
    return [runs[i : i + size] for i in range(0, len(runs), size)]


def execute(group: Group, root: Path, strategy: How = None) -> list[str]:
    """Carries out what is left of some runs together; returns how far each is then.

    If that fails, each is carried out alone: one of them is to blame, or in use. With
    `Programs` each is from the start.
    """
    waiting = [run for run in group if status(root / run.folder) != FINISHED]
    programs = strategy if isinstance(strategy, Programs) else None
    if len(waiting) > 1 and not isinstance(strategy, Programs):
        jobs = [Job(run.config, root / run.folder, run.name) for run in waiting]
        try:
            run_together(jobs, strategy)
        except Busy:
            pass  # another process works at one of them: below each is told apart
        except Exception as error:
            if disk_full(error):
                raise  # of the others, too
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            note(f"{len(jobs)} runs together: {reason}; now one after the other")
        else:
            for run in waiting:
                (root / run.folder / "error.txt").unlink(missing_ok=True)
            waiting = []
        finally:
            jax.clear_caches()  # hundreds of compiled programs fill the memory
    for run in waiting:
        if _execute_alone(run, root / run.folder, programs) == INTERRUPTED:
            break
    return [status(root / run.folder) for run in group]


def _execute_alone(run: Run, folder: Path, programs: Programs | None) -> str:
    error_file = folder / "error.txt"
    for attempt in range(ATTEMPTS):
        if status(folder) == FINISHED:  # by another process since we looked
            return FINISHED
        try:
            code, _ = loop.run(run.config, folder, run.name, programs=programs)
        except Busy:
            time.sleep(0.1 * attempt)
            continue
        except Exception as error:  # whatever it is, the other runs go on
            if disk_full(error):
                raise  # but they need space as well
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            record_failure(folder, reason, traceback.format_exc())
            return FAILED
        finally:
            if programs is None:  # which also has those of the small things around
                jax.clear_caches()
        error_file.unlink(missing_ok=True)
        return INTERRUPTED if code else FINISHED
    return RUNNING


def record_failure(folder: Path, reason: str, trace: str = "") -> None:
    """Writes `error.txt`: the reason, then where it happened."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").write_text(f"{reason}\n\n{trace}".rstrip() + "\n")


# ---------------------------------------------------------------------- signals


class Signals:
    """Notes SIGTERM and SIGINT, also those that a run in progress takes for itself.

    The interpreter writes every signal's number to a pipe, whoever handles it: a run
    whose last round was being computed finishes, and the sweep still stops after it.

    Args:
      leave: end the process at once when a signal comes outside of a run's loop (which
        has handlers of its own, to write a checkpoint first). No exception: raised
        inside of XLA's callbacks it would crash. A run survives any kill.
    """

    def __init__(self, leave: bool):
        self._leave, self._seen = leave, False

    def __enter__(self) -> "Signals":
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def _handle(self, number, frame) -> None:
        del number, frame
        if self._leave:
            print("stopped; the same command goes on from there", flush=True)
            os._exit(loop.EXIT_INTERRUPTED)

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`: readable after a signal."""
        return self._read

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._read, 1024)
            self._seen |= bool({signal.SIGTERM, signal.SIGINT} & set(numbers))
        return self._seen


# -------------------------------------------------------------------- executors


def run_here(
    groups: Sequence[Group],
    root: Path,
    report: Report,
    strategy: How = None,
) -> bool:
    """Carries out groups one after the other; returns False if a signal stopped it.

    Raises:
      InputError: see `check`.
    """
    runs = [run for group in groups for run in group]
    ask_for_devices(runs)
    with Signals(leave=True) as signals:
        check(_to_check(runs, strategy))
        for group in groups:
            outcomes = execute(group, root, strategy)
            for run, outcome in zip(group, outcomes, strict=True):
                report(run, outcome)
            if signals.requested:
                return False
    return True


def ask_for_devices(runs: Sequence[Run]) -> None:
    """Asks for as many CPU devices as a run wants, before JAX's backend starts."""
    devices = max((run.config.execution.devices for run in runs), default=1)
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def run_pool(
    groups: Sequence[Group],
    root: Path,
    processes: int,
    report: Report,
    strategy: How = None,
) -> bool:
    """Carries out groups in local processes; returns False if a signal stopped it.

    Each process has its share of the cores and of the GPUs (`share_of_gpus`), and takes
    the next group when it is done with one. What the runs of a group print goes to
    `log.txt` in the directory of the first. A process that dies (out of memory, say)
    is replaced; the runs it worked at are tried alone, and if it was one, that is
    recorded as its failure.

    Raises:
      InputError: see `check`.
    """
    waiting = deque(groups)
    active: dict[Connection, tuple[_Worker, Group]] = {}
    stopped = False
    runs = [run for group in groups for run in group]
    context = multiprocessing.get_context("spawn")  # JAX dislikes a fork
    cores = sorted(os.sched_getaffinity(0))

    def start(place: int) -> _Worker:
        share = cores[place::processes] or [cores[place % len(cores)]]
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(theirs, share, place, processes, runs, root, strategy),
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, place)

    with Signals(leave=False) as signals:
        free = [start(0)]
        if not _check_with(free[0], signals):
            return False
        free += [start(place) for place in range(1, min(processes, len(groups)))]
        while active or (waiting and not stopped):
            while free and waiting and not stopped:
                worker, group = free.pop(), waiting.popleft()
                _send(worker, group)
                active[worker.pipe] = worker, group
            ready = wait([*active, signals.fileno()])
            if signals.requested and not stopped:
                stopped = True
                for worker, _ in active.values():
                    worker.process.terminate()  # SIGTERM: a checkpoint, then the end
            for pipe in (pipe for pipe in ready if pipe in active):
                worker, group = active.pop(pipe)
                try:
                    outcomes, ending = pipe.recv()
                except (EOFError, ConnectionResetError):  # the worker is gone
                    worker.process.join()
                    ending = signals.requested or worker.process.exitcode in _STOPPED
                    outcomes = [status(root / run.folder) for run in group]
                    if not ending:
                        left = _unfinished(group, outcomes)
                        if len(left) == 1:
                            folder = root / left[0].folder
                            record_failure(folder, _death(worker.process))
                            outcomes[group.index(left[0])] = FAILED
                        else:
                            waiting.extend([run] for run in left)
                            group = [run for run in group if run not in left]
                            outcomes = [FINISHED] * len(group)
                        worker = start(worker.place)
                for run, outcome in zip(group, outcomes, strict=True):
                    report(run, outcome)
                stopped |= ending
                free.append(worker)
        for worker in free:
            _send(worker, None)
            worker.process.join()
    return not stopped


def _unfinished(group: Group, outcomes: Sequence[str]) -> list[Run]:
    pairs = zip(group, outcomes, strict=True)
    return [run for run, outcome in pairs if outcome != FINISHED]


def share_of_gpus(
    place: int, processes: int, drivers: Path = Path("/proc/driver/nvidia/gpus")
) -> dict[str, str]:
    """Returns the environment that gives a process its GPU, or its part of one.

    Args:
      place: of the process, from 0.
      processes: of the pool; where they are more than the GPUs, some share one.
      drivers: has an entry a GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        visible = ",".join(str(i) for i, _ in enumerate(drivers.glob("*")))
    gpus = [gpu for gpu in visible.split(",") if gpu]
    if not gpus:
        return {}
    sharing = -(-processes // len(gpus))
    return {
        "CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)],
        # By default JAX takes most of a GPU's memory when it starts.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / sharing:.3f}",
    }


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection
    place: int  # among the shares of the machine


CHECK = "check"  # to a worker: look at all runs, and say what is wrong
# Exit codes of a worker that was asked to stop outside of a run, or before it listened.
_STOPPED = (loop.EXIT_INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)


def _send(worker: _Worker, message: Group | None) -> None:
    """Sends something; that a worker is gone is seen where its answer is awaited."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # else it ends us, too
    try:
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(message)
    finally:
        signal.signal(signal.SIGPIPE, before)


def _check_with(worker: _Worker, signals: Signals) -> bool:
    """`check` in a worker, for it may take an accelerator's memory; False: a signal."""
    worker.pipe.send(CHECK)
    wait([worker.pipe, signals.fileno()])
    if signals.requested:
        worker.process.terminate()
        worker.process.join()
        return False
    try:
        reason = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        reason = f"the runs could not be checked: {_death(worker.process)}"
    if reason is not None:
        raise InputError(reason)
    return True


def _death(process: SpawnProcess) -> str:
    """How a process ended by itself."""
    code = process.exitcode
    if code is None:
        return "the process does not end"
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    return f"the process ended with {how}; out of memory?"


def _work(
    pipe: Connection,
    cores: list[int],
    place: int,
    processes: int,
    runs: list[Run],
    root: Path,
    strategy: How,
) -> None:
    """A worker: carries out the groups that come through the pipe, until None.

    It answers (how far each run is, whether a signal came). When the parent dies, it
    ends after the group it is at.
    """
    os.sched_setaffinity(0, cores)
    if max(run.config.execution.devices for run in runs) == 1:
        os.environ.update(share_of_gpus(place, processes))
    ask_for_devices(runs)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the parent talks to the user
    with contextlib.suppress(EOFError, ConnectionError), Signals(leave=True) as signals:
        while not signals.requested and (group := pipe.recv()) is not None:
            if group == CHECK:
                pipe.send(_complaint(_to_check(runs, strategy)))
                continue
            folder = root / group[0].folder
            folder.mkdir(parents=True, exist_ok=True)
            with (
                open(folder / "log.txt", "a", buffering=1) as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                outcomes = execute(group, root, strategy)
            pipe.send((outcomes, signals.requested))


def _complaint(runs: Sequence[Run]) -> str | None:
    try:
        check(runs)
    except InputError as error:
        return str(error)
    return None
