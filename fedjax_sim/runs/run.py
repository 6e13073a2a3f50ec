"""A run in progress: what it has done so far, and who is told of it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.experiment.build import Experiment
from fedjax_sim.metrics.evaluation import Counts
from fedjax_sim.round.state import FedState, RoundReport
from fedjax_sim.round.twin import Coupled
from fedjax_sim.runs.directory import RunDirectory
from fedjax_sim.runs.listener import Listener, PyTree, Row
from fedjax_sim.runs.mlflow import MLflow
from fedjax_sim.runs.rows import metrics_row, round_row
from fedjax_sim.runs.summary import summarize
from fedjax_sim.runs.tensorboard import TensorBoard
from fedjax_sim.runs.terminal import Terminal
from fedjax_sim.runs.wandb import WeightsAndBiases


def recorders(config: Config, workdir: Path, name: str) -> list[Listener]:
    """Returns the listeners that `config.log` asks for.

    Raises:
      InputError: what one of them needs is not installed.
    """
    found: list[Listener] = []
    if config.log.tensorboard:
        found.append(TensorBoard(workdir))
    if config.log.mlflow:
        found.append(MLflow(workdir, name, config))
    if config.log.wandb:
        found.append(WeightsAndBiases(workdir, name, config))
    return found


class Job(NamedTuple):
    """A run to carry out."""

    config: Config
    workdir: Path  # created if missing; see `runs.directory` for its files
    name: str = "run"  # for messages and the summary
    listeners: Sequence[Listener] = ()  # told beside the run's own
    dataset: Dataset | None = None  # of the caller; `config.data.name` is then `arrays`


class Run:
    """A run, from its first round in this process to its last.

    A process that follows another (`core.distributed`) goes through the same rounds
    with no directory and nobody to tell.

    Attributes:
      config, name: of the run.
      done: rounds that are complete.
      rounds, metrics: the rows so far.
      summary: of a finished run, else None; empty where nobody is told.

    Args:
      job: what to run.
      leads: this process owns the run's directory and the terminal.

    Raises:
      InputError: the directory cannot be written, is in use, or of another config.
    """

    def __init__(self, job: Job, leads: bool = True):
        self.config, self.name = job.config, job.name
        self.done = 0
        self.rounds: list[Row] = []
        self.metrics: list[Row] = []
        self.summary: dict[str, Any] | None = None
        self._seconds: Counter[str] = Counter()
        self._directory: RunDirectory | None = None
        self._listeners: list[Listener] = []
        if leads:
            self._directory = RunDirectory(job.config, job.workdir)
            self.summary = self._directory.summary
            config = job.config
            terminal = Terminal(
                job.name, config.rounds, job.workdir, config.attack.name
            )
            self._listeners = [self._directory, terminal, *job.listeners]

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exc: object) -> None:
        for listener in self._listeners:
            listener.close()

    def begin(self, built: Experiment) -> None:
        """Reads what is there, before the first round of this process.

        Raises:
          InputError: its files are damaged, or a listener cannot work.
        """
        self._facts = built.facts
        self._malicious = np.asarray(built.inputs.malicious)
        self._distills = built.parts.sides({}).defense.distills
        if self._directory is None:
            return
        self._listeners += recorders(self.config, self._directory.workdir, self.name)
        self.done, self.rounds, self.metrics = self._directory.open(built.facts)
        labels = np.asarray(built.inputs.data.labels)
        self._directory.keep_partition(built.partition, labels)
        for listener in self._listeners:
            listener.begins(built.facts, self.done)

    def restore(self, states: PyTree) -> PyTree:
        """Returns the states after `done` rounds; given are those before the first."""
        if self._directory is None:  # the leader's are taken
            return states
        return self._directory.restore(self.done, states)

    def add_seconds(self, **phases: float) -> None:
        """Notes wall time of phases, for the next metrics row."""
        self._seconds.update(phases)

    def add_rounds(self, reports: RoundReport, count: int) -> None:
        """Notes the first `count` rounds of `reports`."""
        rows = [round_row(reports, i) for i in range(count)]
        self.rounds += rows
        self.done += count
        for listener in self._listeners:
            listener.rounds_done(rows)

    def add_evaluation(
        self, counts: dict[str, Counts], states: tuple[FedState] | Coupled
    ) -> None:
        """Notes the evaluation of the last round.

        Args:
          counts: of the evaluation.
          states: of the run, and with attack_effect of the run without attack.
        """
        since = self.metrics[-1]["round"] if self.metrics else 0
        recent = [row for row in self.rounds if row["round"] > since]
        row = metrics_row(self.config, recent, counts, states, self._seconds)
        self._seconds.clear()
        self.metrics.append(row)
        for listener in self._listeners:
            listener.evaluated(row)

    def reached(self, states: Any, last: bool) -> None:
        """Tells where the device returned; see `Listener.state_reached`."""
        for listener in self._listeners:
            listener.state_reached(self.done, states, last)

    def interrupt(self) -> None:
        """Tells that the run stops before its end."""
        for listener in self._listeners:
            listener.interrupted(self.done)

    def say_finished(self) -> None:
        """Tells that there is nothing left to do."""
        for listener in self._listeners:
            listener.already_finished()

    def finish(self, expelled: np.ndarray | None) -> None:
        """Sums up.

        Args:
          expelled: bool [N], banned for good; None if the defence never does that.
        """
        self.summary = {}
        if not self._listeners:
            return
        self.summary = summarize(
            self.name,
            self.config,
            self._facts,
            self.rounds,
            self.metrics,
            self._malicious,
            expelled,
            self._distills,
        )
        for listener in self._listeners:
            listener.finished(self.summary)
