"""Runs of a sweep as jobs of a Slurm cluster, through submitit.

The jobs of one start form an array; each carries out its share of the runs as
`executors.execute` does anywhere, those of one program together. Run directories are
the only state here too: how far a run is, is read there and never from a job's return
value. So the command that submitted may be stopped and started again while jobs wait or
work; it joins them and submits only what no job has.

A job that is warned (SIGUSR2: its time is nearly over, or it makes room for another)
writes a checkpoint and goes back into the queue. SIGTERM (`scancel`) ends it after a
checkpoint. A job that dies without a word (out of memory, say) is recorded as the
failure of the runs it left; the next start tries them again.

What the machine of a job cannot give (data, devices, memory) fails the run there: the
machine that submits is another one. `RESULTS/jobs` holds submitit's files, with what
the jobs printed. It and the run directories lie on a file system that all nodes share
and that knows `flock`.
"""

import contextlib
import getpass
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.core import utils
from submitit.helpers import Checkpointable

from fedjax_sim.core.errors import InputError
from fedjax_sim.round.execution import Strategy
from fedjax_sim.sweeps import executors
from fedjax_sim.sweeps.executors import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    WAITING,
    Group,
)
from fedjax_sim.sweeps.sweep import Run

# By cluster: what submitit calls a job, and how often to look how far the jobs are.
CLUSTERS = {"slurm": (submitit.SlurmJob, 10.0), "local": (submitit.LocalJob, 0.2)}
# A short time limit starts sooner, and a job that reaches it goes on from there.
DEFAULTS = {"name": "fedjax_sim", "timeout_min": 60}
# How often a job may reach it: each time it has come further.
MAX_TIMEOUTS = 1000


class Job(Checkpointable):
    """What a job does. submitit pickles it, and again when it goes back to the queue.

    Args:
      groups: to be carried out one after the other.
      root: folder of the run directories, absolute.
      strategy: how many runs of a group are stacked.
    """

    def __init__(self, groups: Sequence[Group], root: Path, strategy: Strategy | None):
        self.groups, self.root, self.strategy = groups, root, strategy

    @property
    def runs(self) -> list[Run]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group]

    def __call__(self) -> None:
        """Carries out the runs, until a signal comes; called by submitit."""
        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        requeue = signal.getsignal(warning)  # submitit's: pickles this job again
        assert callable(requeue), "submitit has set a handler"
        warned = stopped = False

        def note(number, frame):
            del number, frame
            nonlocal warned
            warned = True
            signal.raise_signal(signal.SIGTERM)  # which a run's loop knows

        def leave(number, frame):  # outside of a run's loop, which has its own
            del number, frame
            nonlocal stopped
            stopped = True
            raise _Stop

        with contextlib.suppress(_Stop), executors.Signals(leave=False) as signals:
            signal.signal(warning, note)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, leave)
            executors.ask_for_devices(self.runs)
            for group in self.groups:
                executors.execute(group, self.root, self.strategy)
                stopped = signals.requested
                if stopped:
                    break
        if warned or (stopped and _preempted()):
            requeue(warning, None)


def _preempted() -> bool:
    """Whether this job makes room for another: SIGTERM does not say why it came."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:  # a local one
        return False
    command = ["squeue", "--noheader", f"--jobs={job}", "--Format=PreemptTime"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return found not in ("", "N/A")


class _Stop(BaseException):
    """A signal came; no `Exception`, which `execute` would take for a failure."""


def run_jobs(
    groups: Sequence[Group],
    root: Path,
    report: executors.Report,
    strategy: Strategy | None = None,
    *,
    cluster: str,
    jobs: int,
    parameters: Mapping[str, Any],
) -> bool:
    """Submits runs and waits for them; those that a job has already, it only waits for.

    Args:
      groups: to be carried out.
      root: folder of the run directories.
      report: told of each run that ends.
      strategy: how many runs of a group are stacked.
      cluster: `slurm`, or `local`: processes of this machine, all at once.
      jobs: at most so many new jobs, which share the groups.
      parameters: of `submitit.AutoExecutor.update_parameters`; those of `slurm_...`
        do nothing on `local`.

    Returns:
      False if a signal stopped the waiting, or one of the jobs. Jobs are left alone.

    Raises:
      InputError: a parameter that submitit or Slurm refuses, or no Slurm here.
    """
    root = root.resolve()
    folder = root / "jobs" / cluster
    executor = _executor(folder, cluster, parameters)
    runs = [run for group in groups for run in group]
    with executors.Signals(leave=False) as signals:
        job_of = _earlier(folder, cluster)
        new = [[run for run in group if run.folder not in job_of] for group in groups]
        new = [group for group in new if group]
        known = len(runs) - sum(map(len, new))
        if known:
            print(f"{known} runs are in jobs of an earlier start", flush=True)
        if new:
            work = [Job(share, root, strategy) for share in _shares(new, jobs)]
            job_of |= _submit(executor, work)
            print(
                f"{len(runs) - known} runs in {len(work)} new jobs; their output: "
                f"{folder}",
                flush=True,
            )
        return _wait(runs, root, cluster, job_of, signals, report)


def _executor(
    folder: Path, cluster: str, parameters: Mapping[str, Any]
) -> submitit.AutoExecutor:
    for key in ("nodes", "tasks_per_node"):
        if parameters.get(key, 1) != 1:
            raise InputError(
                f"--submit={key}={parameters[key]}: a job of a sweep is one process; "
                "allowed: 1"
            )
    options = {f"{cluster}_max_num_timeout": MAX_TIMEOUTS}
    try:
        executor = submitit.AutoExecutor(folder, cluster, **options)
        executor.update_parameters(**{**DEFAULTS, **parameters})
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--cluster={cluster}, --submit: {reason}") from None
    return executor


def _shares(groups: Sequence[Group], jobs: int) -> list[list[Group]]:
    """Deals groups to at most so many jobs, each of about equally many runs."""
    shares: list[list[Group]] = [[] for _ in range(min(jobs, len(groups)))]
    for group in sorted(groups, key=len, reverse=True):
        min(shares, key=lambda share: sum(map(len, share))).append(group)
    return shares


def _submit(
    executor: submitit.AutoExecutor, work: Sequence[Job]
) -> dict[str, submitit.Job]:
    """Starts an array of jobs; returns the job of each run's folder."""
    try:
        submitted = executor.submit_array(work)
    except utils.FailedJobError as error:  # what sbatch says is in the last line
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"--cluster, --submit: {reason}") from None
    return {
        run.folder: job
        for own, job in zip(work, submitted, strict=True)
        for run in own.runs
    }


def _earlier(folder: Path, cluster: str) -> dict[str, submitit.Job]:
    """The jobs of earlier starts that wait or work, by the folders of their runs."""
    kind, _ = CLUSTERS[cluster]
    ending = "_submitted.pkl"
    ids = [path.name.removesuffix(ending) for path in folder.glob(f"*{ending}")]
    alive = _alive(ids, cluster)
    jobs = [kind(folder=folder, job_id=number) for number in ids if number in alive]
    return {run.folder: job for job in jobs for run in job.submission().function.runs}


def _alive(ids: Sequence[str], cluster: str) -> set[str]:
    """Which jobs wait or work.

    Not asked through submitit, which needs Slurm's accounting to tell a dead job.
    """
    if cluster == "local":
        return {number for number in ids if _is_controller(int(number))}
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(
            [*command, f"--user={getpass.getuser()}"],
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:  # Slurm restarts: asked again
        print(f"squeue: {error.stderr.strip()}", flush=True)
        return set(ids)
    return {*ids} & {*done.stdout.split()}


def _is_controller(process_id: int) -> bool:
    """Whether a process is the parent that submitit gives a local job."""
    try:
        command = psutil.Process(process_id).cmdline()
    except psutil.NoSuchProcess:
        return False
    return any("submitit.local._local" in part for part in command)


def _wait(
    runs: Sequence[Run],
    root: Path,
    cluster: str,
    job_of: Mapping[str, submitit.Job],
    signals: executors.Signals,
    report: executors.Report,
) -> bool:
    waiting, completed = list(runs), True
    _, seconds = CLUSTERS[cluster]
    ids = [job.job_id for job in job_of.values()]
    # A job counts as gone if it is twice: until then its files are visible here, too.
    before = set(ids)
    while waiting:
        wait([signals.fileno()], timeout=seconds)
        if signals.requested:
            print("the jobs go on without this command", flush=True)
            return False
        alive = _alive(ids, cluster)
        for run in list(waiting):
            job = job_of[run.folder]
            gone = job.job_id not in alive | before
            outcome = _outcome(root / run.folder, job, gone)
            if outcome is not None:
                report(run, outcome)
                waiting.remove(run)
                completed &= outcome != INTERRUPTED
        before = alive
    return completed


def _outcome(folder: Path, job: submitit.Job, gone: bool) -> str | None:
    """How a run ended, None if its job may still change that."""
    state = executors.status(folder)
    if state == FINISHED or not gone:
        return state if state == FINISHED else None
    if state not in (INTERRUPTED, WAITING):
        return state
    reason, trace = f"job {job.job_id} died; out of memory?", ""
    if job.paths.result_pickle.exists():
        ending, trace = utils.pickle_load(job.paths.result_pickle)
        if ending == "success":  # it left after a signal
            return INTERRUPTED
        reason = f"job {job.job_id}: {trace.strip().splitlines()[-1]}"
    executors.record_failure(folder, f"{reason} ({job.paths.stderr})", trace)
    return FAILED
