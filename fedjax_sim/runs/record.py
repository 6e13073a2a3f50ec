"""What a run writes while it goes on: rows, checkpoints, summary.

The files and their fields: `fedjax_sim.runs.directory`.
"""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.experiment.config import Config, to_dict
from fedjax_sim.metrics import evaluation as metrics
from fedjax_sim.round import federation as fed
from fedjax_sim.runs import directory as results
from fedjax_sim.runs.checkpoint import Checkpoints

PyTree = Any
PHASES = ("train", "defend", "evaluate", "compile")


class Record:
    """A run directory, held while a process works there.

    Attributes:
      config: of the run.
      name: of the run, for messages.
      done: rounds that are complete.
      summary: of a finished run, else None.

    Raises:
      InputError: the directory cannot be written, is in use, or of another config.
    """

    def __init__(self, config: Config, workdir: Path, name: str):
        self.config, self.name = config, name
        self.done, self.summary = 0, None
        self._workdir = workdir
        self._checkpoints = self._writer = None
        self._seconds: Counter[str] = Counter()

    def __enter__(self) -> "Record":
        workdir = self._workdir
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = os.strerror(error.errno)
            raise InputError(f"--workdir={workdir}: {reason}") from None
        self._lock = results.Lock(workdir)
        try:
            _check_same_config(self.config, workdir)
            if (workdir / "summary.json").exists():
                self.summary = results.read_json(
                    workdir / "summary.json", *results.SUMMARY
                )
        except InputError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exc) -> None:
        for part in (self._checkpoints, self._writer):
            if part is not None:
                part.close()
        self._lock.release()

    def open(self, facts: dict[str, Any]) -> None:
        """Writes what is known before the first round and reads what is there."""
        self._facts = facts
        majority = facts["malicious_majority"]
        if majority:
            share = f"{100 * majority:.3g} %"
            note(
                f"{self.name}: {share} of the rounds are expected to have a malicious "
                "majority"
            )
        self._writer = _tensorboard(self.config, self._workdir)
        results.write_json(self._workdir / "config.json", to_dict(self.config))
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        provenance = {**results.environment(), "started": started, **facts}
        results.write_json(self._workdir / "provenance.json", provenance)
        self._checkpoints = Checkpoints(self._workdir / "checkpoints")
        self.done = self._checkpoints.latest() or 0
        self._rounds_file = results.Rows(self._workdir / "rounds.jsonl")
        self._metrics_file = results.Rows(self._workdir / "metrics.jsonl")
        rounds, every = self.config.rounds, self.config.evaluation.every
        done = range(1, self.done + 1)
        evaluated = [r for r in done if r % every == 0 or r == rounds]
        self._rounds = self._rounds_file.keep_until(self.done, done)
        self._metrics = self._metrics_file.keep_until(self.done, evaluated)

    def restore(self, states: PyTree) -> PyTree:
        """Returns the states of the newest checkpoint, without one the given ones."""
        return self._checkpoints.restore(self.done, states) if self.done else states

    def save(self, states: PyTree) -> None:
        """Writes a checkpoint of the last round, unless there is one."""
        if self.done not in (0, self._checkpoints.latest()):
            self._checkpoints.save(self.done, states)

    @property
    def last(self) -> dict[str, Any]:
        """The last metrics row."""
        return self._metrics[-1]

    def add_seconds(self, **phases: float) -> None:
        """Notes wall time of phases, for the next metrics row."""
        self._seconds.update(phases)

    def add_rounds(self, reports: fed.RoundReport, count: int) -> None:
        """Writes the first `count` rounds of `reports`."""
        rows = [_round_row(reports, i) for i in range(count)]
        self._rounds_file.append(rows)
        self._rounds += rows
        self.done += count

    def add_evaluation(
        self,
        counts: dict[str, metrics.Counts],
        states: tuple[fed.FedState] | fed.Coupled,
    ) -> None:
        """Writes the metrics row of the last round.

        Args:
          counts: of the evaluation.
          states: of the run, and with attack_effect of the run without attack.
        """
        row = self._metrics_row(counts, states)
        row |= {f"seconds_{phase}": self._seconds[phase] for phase in PHASES}
        self._seconds.clear()
        self._metrics_file.append([row])
        self._metrics.append(results.plain(row))
        if self._writer is not None:
            _write_scalars(self._writer, row)

    def say_finished(self) -> None:
        """Tells the user that nothing is left to do."""
        path = self._workdir / "summary.json"
        print(f"{self.name}: finished already, see {path}")

    def say_interrupted(self) -> None:
        """Tells the user how far the run is."""
        print(
            f"{self.name}: stopped after round {self.done} of {self.config.rounds}; "
            "the same command goes on from there"
        )

    def finish(self, malicious: np.ndarray, expelled: np.ndarray | None) -> None:
        """Writes the summary.

        Args:
          malicious: bool [N]; who attacks, if there is an attack.
          expelled: bool [N], banned for good; None if the defence never does that.
        """
        if self.config.attack.name == "none":
            malicious = np.zeros_like(malicious)
        history = metrics.detection_history(self._rounds, malicious, expelled)
        summary = self._summary(history)
        lost = sum(sum(row["scores"]["non_finite"]) for row in self._rounds)
        if lost:
            sent = sum(len(row["clients"]) for row in self._rounds)
            note(
                f"{self.name}: {int(lost)} of {sent} updates held NaN or Inf and were "
                f"left out; {summary['rounds_skipped']} rounds had no other"
            )
        if self._metrics[-1]["diverged"]:
            note(f"{self.name}: the global model diverged: its numbers are not finite")
        results.write_json(self._workdir / "summary.json", summary)
        self.summary = results.plain(summary)

    def _metrics_row(self, counts, states):
        since = self._metrics[-1]["round"] if self._metrics else 0
        recent = [row for row in self._rounds if row["round"] > since]
        last = recent[-1]
        attacking = np.isin(last["clients"], last["malicious"])

        def split(key, malicious):
            pairs = zip(last[key], attacking, strict=True)
            return _mean([value for value, bad in pairs if bad == malicious])

        row: dict[str, Any] = {"round": self.done}
        row.update(
            metrics.evaluation_row(
                counts, self.config.evaluation.low_confidence_threshold
            )
        )
        params = states[0].params
        if len(states) > 1:
            row["attack_effect"] = float(jnp.linalg.norm(params - states.twin.params))
            row["attack_effect_estimate"] = float(jnp.linalg.norm(states.effect))
        finite = bool(jnp.isfinite(params).all()) and np.isfinite(row["test_loss"])
        row["diverged"] = not finite
        for key, name in (("losses", "train_loss"), ("update_norms", "update_norm")):
            row[f"{name}_benign"] = split(key, False)
            row[f"{name}_malicious"] = split(key, True)
        norms = [norm for norm in last["update_norms"] if norm is not None]
        row["update_norm_max"] = max(norms, default=None)
        row["global_step_norm"] = last["global_step_norm"]
        row["rounds_skipped"] = sum(r["skipped"] for r in recent)
        row["clients_non_finite"] = sum(sum(r["scores"]["non_finite"]) for r in recent)
        row["weight_malicious"] = _mean([_malicious_weight(r) for r in recent])
        for key, value in last["attack"].items():
            row[f"attack_{key}"] = _mean(np.ravel(value).tolist())
        row.update(sum((_detection(r) for r in recent), metrics.Detection()).row())
        return row

    def _summary(self, history):
        config, facts, metric_rows = self.config, self._facts, self._metrics
        final = metric_rows[-1]
        late_start = config.rounds - max(config.rounds // 10, 1)
        late_rows = [row for row in metric_rows if row["round"] > late_start]

        late = lambda rows: {key: _spread(rows, key) for key in ("mta", "asr")}
        distilled, between = [], []
        if config.defense.name == "drop":
            every = config.defense.options["every"]
            first = config.defense.options["start_round"]
            for row in late_rows:
                due = row["round"] % every == 0 and row["round"] >= first
                (distilled if due else between).append(row)

        return {
            "name": self.name,
            "status": "finished",
            "rounds": config.rounds,
            "final": {k: v for k, v in final.items() if not k.startswith("seconds_")},
            "late": late(late_rows),
            "late_after_distillation": late(distilled),
            "late_between_distillations": late(between),
            "best_mta": max(row["mta"] for row in metric_rows),
            "detection": {
                **sum((_detection(r) for r in self._rounds), metrics.Detection()).row(),
                **history,
            },
            "backdoor": _backdoor(metric_rows),
            "rounds_skipped": sum(row["skipped"] for row in self._rounds),
            "partition": facts["partition"]["fingerprint"],
            "realised_dpr": _mean(results.plain(facts["realised_dpr"]) or []),
            "attack_knowledge": facts["attack_knowledge"],
            "oracle_knowledge": facts["oracle_knowledge"],
            "seconds": {
                p: sum(row[f"seconds_{p}"] for row in metric_rows) for p in PHASES
            },
        }


class NoRecord:
    """What a process has that follows another (`fedjax_sim.core.distributed`): nothing.

    It goes through the same rounds; `done` and `summary` are as the leader's `Record`
    says, the summary of a finished run being empty.
    """

    def __init__(self, config: Config):
        self.config, self.name = config, ""
        self.done, self.summary = 0, None
        self.last: dict[str, Any] = {}

    def __enter__(self) -> "NoRecord":
        return self

    def __exit__(self, *exc) -> None:
        pass

    def restore(self, states: PyTree) -> PyTree:
        """Returns any states of the right shape: the leader's are taken."""
        return states

    def add_rounds(self, reports: fed.RoundReport, count: int) -> None:
        """Counts."""
        del reports
        self.done += count

    def finish(self, malicious: np.ndarray, expelled: np.ndarray | None) -> None:
        """Notes that the run is finished."""
        del malicious, expelled
        self.summary = {}

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    open = save = add_seconds = add_evaluation = _nothing
    say_finished = say_interrupted = _nothing


def _check_same_config(config: Config, workdir: Path) -> None:
    """A run directory belongs to one config."""
    path = workdir / "config.json"
    new = results.plain(to_dict(config))
    rounds = workdir / "rounds.jsonl"
    begun = rounds.exists() and rounds.stat().st_size > 0
    if not path.exists() or not (begun or (workdir / "summary.json").exists()):
        return  # nothing was computed there
    old = results.read_json(path)
    for section in sorted({*old, *new}):
        before, after = old.get(section), new.get(section)
        if section in ("checkpoint", "log") or before == after:
            continue  # how a run is recorded may change, what it computes may not
        if isinstance(before, dict) and isinstance(after, dict):
            differing = [
                key
                for key in sorted({*before, *after})
                if before.get(key, ...) != after.get(key, ...)
                and (section, key) != ("data", "data_dir")  # data may move
            ]
            if not differing:
                continue
            key = differing[0]
            section, before, after = f"{section}.{key}", before.get(key), after.get(key)
        raise InputError(
            f"--workdir={workdir} holds a run with config.{section} = {before!r}, not "
            f"{after!r}; choose another folder or the same config"
        )


def _round_row(reports: fed.RoundReport, i: int) -> dict[str, Any]:
    report = jax.tree.map(lambda x: x[i], reports)
    present = report.present
    ids = report.client_ids[present]
    attacking = report.malicious & report.active
    return results.plain(
        {
            "round": report.round,
            "clients": ids,
            "malicious": report.client_ids[present & attacking],
            "excluded": report.client_ids[present & (report.weights == 0)],
            "absent": (~present).sum(),
            "weights": report.weights[present],
            "losses": report.losses[present],
            "update_norms": report.update_norms[present],
            "scores": {name: x[present] for name, x in report.scores.items()},
            "attack": report.attack,
            "global_step_norm": report.global_norm,
            "skipped": report.skipped,
        }
    )


def _detection(row: dict[str, Any]) -> metrics.Detection:
    clients = np.array(row["clients"])
    return metrics.detection(
        np.isin(clients, row["excluded"]),
        np.isin(clients, row["malicious"]),
        np.ones(len(clients), bool),
    )


def _spread(rows: list[dict[str, Any]], key: str) -> dict[str, float] | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def _malicious_weight(row: dict[str, Any]) -> float | None:
    """The share of the aggregate's weights that attackers have, in percent."""
    weights = np.array(row["weights"], float)
    if not weights.sum():
        return None
    return (
        100 * weights[np.isin(row["clients"], row["malicious"])].sum() / weights.sum()
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _backdoor(metric_rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How the attack success moved, if it was measured in every round."""
    # LeadFL's backdoor accuracy is that of all images, those of the target too.
    measure = "asr_all" if "asr_all" in metric_rows[-1] else "asr"
    success = [row.get(measure) for row in metric_rows]
    if None in success or metric_rows[-1]["round"] != len(metric_rows):
        return None
    found = metrics.mitigation(np.array(success))
    return {
        "measure": measure,
        "mean_asr": float(np.mean(success)),
        **found._asdict(),
    }


def _tensorboard(config: Config, workdir: Path):
    if not config.log.tensorboard:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError(
            "config.log.tensorboard = True needs: pip install 'fedjax_sim[tensorboard]'"
        ) from None
    return SummaryWriter(str(workdir / "tensorboard"))


def _write_scalars(writer, row: dict[str, Any]) -> None:
    for key, value in row.items():
        if key != "round" and value is not None:
            writer.add_scalar(key, float(value), row["round"])
    writer.flush()
