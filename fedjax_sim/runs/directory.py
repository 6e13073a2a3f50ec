"""The run directory: its files, their fields, and how they survive a kill.

    config.json      the resolved config, every key
    identity.json    what the checkpoints are of: config, fingerprints of the data, of
                     the partition and of the initial model (config.model.init); another
                     run does not go on from them
    provenance.json  versions, backend, devices, git revision, data and partition
    partition.npz    which client holds which training samples, before an attack moves
                     any: another run takes it by `partition.name=file`
                     (`data.partition_files`)
    metrics.jsonl    one row per evaluated round
    rounds.jsonl     one row per round
    summary.json     written last: its presence means that the run is finished
    continued.json   of a run that began where a shorter one ended (`runs.continued`)
    geometry/        updates of some rounds in a plane: `runs.update_plane`
    checkpoints/     orbax checkpoints of the federation's state, the newest two
    tensorboard/     the numbers of metrics.jsonl (config.log.tensorboard)
    mlflow.db, wandb/  the same and the config (config.log.mlflow, config.log.wandb)
    page.html        of `fedjax-sim show`
    lock             held while a process works here

Rates are percentages, times seconds, rounds count from 1. `null` = undefined.

metrics.jsonl
    round               evaluated after this round
    mta, test_loss      accuracy and mean cross-entropy on the clean test set
    asr                 attack success rate (null: no test image of the victim class)
    backdoor_loss, target_confidence
                        mean cross-entropy of the same images against the target, and
                        mean softmax probability of it
    asr_any_source, asr_all
                        over all classes but the target, and over all (optional)
    retained, conditional_mta, retained_asr, conditional_asr
                        with a low-confidence threshold
    attack_effect       L2 distance of the global model from that of the same run
                        without attack (config.evaluation.attack_effect); there
                        malicious clients train as benign ones, fakes send nothing
    attack_effect_estimate
                        the same by the recursion (I - eta H), from the last round with
                        attackers on (`attack_effect`); null with FLIP or a server
                        optimiser
    diverged            the global model or its test loss is not finite
    train_loss_benign, train_loss_malicious
                        mean local loss in the last round
    update_norm_benign, update_norm_malicious, update_norm_max
                        L2 norms of the updates in the last round
    global_step_norm    L2 norm of the last step of the global model
    weight_malicious    attackers' share of the aggregate's weights, mean of the rounds
                        since the last row
    attack_scale, attack_aligned
                        of PoisonedFL in the last round: c, and the share (0 to 1) of
                        coordinates that moved its way since its last test
    attack_factor       of the adaptive label flips: the mean factor of the last round
    rounds_skipped      rounds without a surviving client since the last row
    clients_non_finite  NaN or Inf updates excluded since the last row
    true_positives, false_positives, false_negatives, true_negatives,
    detection_accuracy, false_positive_rate, false_negative_rate
                        of the clients in the cohorts since the last row; positive =
                        malicious and active, flagged = weight 0 in the aggregate
    seconds_train, seconds_defend, seconds_rounds, seconds_evaluate, seconds_compile
                        wall time since the last row; defend includes crafting of the
                        updates, the aggregate and the server step. Without the clock
                        (config.execution.clock) train and defend are null and rounds
                        is the time of both; with it, rounds is null. The only fields
                        that differ between two runs of the same seed.

rounds.jsonl
    round, clients, malicious (ids of attacking clients), acted (those of them who
    trained otherwise or sent something else), excluded (ids with weight 0),
    absent (places of the cohort that stayed empty), weights, losses, update_norms,
    scores (of the defence, by name), attack (what the attack reports, by name),
    skipped; lists follow `clients`

summary.json
    name, rounds, status ("finished"), final (the last metrics row without times),
    late (mean and std of mta and asr over the evaluated rounds in the last tenth),
    late_after_distillation, late_between_distillations (the same over those right after
    a distillation of DROP, where the MTA is lowest, and over the others),
    best_mta, detection (over all rounds; also dacc, fpr, fnr, adacc, afpr, afnr, aar,
    aoi and reconstruction errors, see `metrics.detection`), backdoor (measure:
    asr_all where it was measured, else asr; mean_asr, episodes above 50 % and the mean
    by phase of a cycle of ten, see `metrics.over_rounds`; null unless every round was
    evaluated), property2 (DROP's equations 2 and 3 with lambda 80: rounds, least_asr
    and most_asr of the evaluated rounds with at least that MTA), rounds_skipped,
    rounds_attacked (in which an attacker sent what a benign client in its place would
    not), cost (download_bytes and upload_bytes of all rounds, a model of float32 each;
    defense_state_bytes, what the rule remembers; reconstruction_iterations of
    FedREDefense), partition, realised_dpr (mean poisoned fraction of a malicious
    client's data), attack_knowledge, oracle_knowledge, seconds (by phase), init
    (fingerprint of the model it began with; null: a random one)

provenance.json
    versions, python, platform, backend, processes, devices (of all processes), git,
    started, data (sizes), partition (fingerprint, sizes; clients_without_a_class and
    fewest_classes of a client, fake ones not counted), execution (what `auto`
    chose), parameters, model_bytes, defense_state_bytes, malicious_clients,
    realised_dpr (of each of them), nothing_to_poison (malicious clients whose data the
    attack leaves as it is), malicious_majority (probability in a round; null unless
    uniform), init
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.partition_files import write_partition
from fedjax_sim.experiment.config import LOCATIONS, to_dict
from fedjax_sim.runs.files import (
    SUMMARY,
    Lock,
    Rows,
    environment,
    plain,
    read_json,
    write_json,
)
from fedjax_sim.runs.listener import Listener, PyTree, Row

# What may differ from the config of a finished run: its results do not.
_NO_MATTER = ("data.data_dir", "execution.compilation_cache")


class RunDirectory(Listener):
    """A run's files, held while a process works there.

    Attributes:
      summary: of a finished run, else None.
      workdir: of the run.

    Raises:
      InputError: the directory cannot be written, is in use, or of another config.
    """

    def __init__(self, config: Config, workdir: Path):
        self._config, self.workdir = config, workdir
        self._saved_at = time.monotonic()
        self._opened = False
        self.summary: dict[str, Any] | None = None
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise InputError(f"--workdir={workdir}: {reason}") from None
        self._lock = Lock(workdir)
        try:
            self._check_config()
            if (workdir / "summary.json").exists():
                self.summary = read_json(workdir / "summary.json", *SUMMARY)
        except InputError:
            self._lock.release()
            raise

    def _check_config(self) -> None:
        """Refuses another config than that of what was computed here."""
        path, rounds = self.workdir / "config.json", self.workdir / "rounds.jsonl"
        begun = rounds.exists() and rounds.stat().st_size > 0
        begun |= (self.workdir / "summary.json").exists()
        if path.exists() and begun:
            new = plain(to_dict(self._config))
            finished = (self.workdir / "summary.json").exists()
            # Without a checkpoint nothing else tells what another file held.
            movable = _NO_MATTER if finished else LOCATIONS
            _check_same_config(read_json(path), new, self.workdir, movable)

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        """Refuses to go on from a checkpoint of another config, data or partition."""
        path = self.workdir / "identity.json"
        if not path.exists():
            raise InputError(
                f"--workdir={self.workdir}: identity.json is missing, which says what "
                "the checkpoints are of; restore the file or choose another folder"
            )
        old = read_json(path, "config", "data", "partition")
        _check_same_config(old["config"], identity["config"], self.workdir)
        for key, what in (("data", "images or labels"), ("partition", "clients")):
            if old[key] != identity[key]:
                raise InputError(
                    f"--workdir={self.workdir} holds a run on other {what} "
                    f"(fingerprint {old[key]}, now {identity[key]}); restore the data "
                    "or choose another folder"
                )
        if old.get("init") != identity["init"]:
            raise InputError(
                f"--workdir={self.workdir} holds a run from another initial model "
                f"(fingerprint {old.get('init')}, now {identity['init']}); restore the "
                "file of config.model.init or choose another folder"
            )

    def open(self, facts: Mapping[str, Any]) -> tuple[int, list[Row], list[Row]]:
        """Writes what is known before the first round and reads what is there.

        Returns:
          The rounds done, and the rows of rounds.jsonl and metrics.jsonl until then.
        """
        write_json(self.workdir / "config.json", to_dict(self._config))
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        provenance = {**environment(), "started": started, **facts}
        write_json(self.workdir / "provenance.json", provenance)
        self._opened = True
        self._checkpoints = Checkpoints(self.workdir / "checkpoints")
        done = self._checkpoints.latest() or 0
        identity = {
            "config": plain(to_dict(self._config)),
            "data": facts["data"]["fingerprint"],
            "partition": facts["partition"]["fingerprint"],
            "init": facts["init"],
        }
        if done:
            self._check_identity(identity)
        write_json(self.workdir / "identity.json", identity)
        self._rounds_file = Rows(self.workdir / "rounds.jsonl")
        self._metrics_file = Rows(self.workdir / "metrics.jsonl")
        rounds, every = self._config.rounds, self._config.evaluation.every
        evaluated = [r for r in range(1, done + 1) if r % every == 0 or r == rounds]
        return (
            done,
            self._rounds_file.keep_until(done, range(1, done + 1)),
            self._metrics_file.keep_until(done, evaluated),
        )

    def keep_partition(self, partition: Partition, labels: np.ndarray) -> None:
        """Writes partition.npz."""
        write_partition(self.workdir / "partition.npz", partition, labels)

    def restore(self, done: int, states: PyTree) -> PyTree:
        """Returns the states of the newest checkpoint, without one the given ones."""
        if not done:
            return states
        return self._checkpoints.restore(done, states, self._rows_digest())

    def _rows_digest(self) -> np.ndarray:
        """u8 [32]: of all rows until now, so that a checkpoint goes with no others."""
        digests = self._rounds_file.digest() + self._metrics_file.digest()
        found = hashlib.blake2b(digests, digest_size=32).digest()
        return np.frombuffer(found, np.uint8)

    # As a listener.

    def rounds_done(self, rows: list[Row]) -> None:
        """Appends to rounds.jsonl."""
        self._rounds_file.append(rows)

    def evaluated(self, row: Row) -> None:
        """Appends to metrics.jsonl."""
        self._metrics_file.append([row])

    def state_reached(
        self, done: int, states: Callable[[], PyTree], last: bool
    ) -> None:
        """Writes a checkpoint if one is due, unless there is one of this round."""
        policy, now = self._config.checkpoint, time.monotonic()
        timely = now - self._saved_at >= policy.every_seconds
        whole = policy.every_rounds is not None and done % policy.every_rounds == 0
        if not (timely or whole or last):
            return
        if done not in (0, self._checkpoints.latest()):
            self._checkpoints.save(done, states(), self._rows_digest())
        self._saved_at = now

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        write_json(self.workdir / "summary.json", summary)

    def close(self) -> None:
        """Lets another process work in the directory."""
        if self._opened:
            self._checkpoints.close()
        self._lock.release()


def _check_same_config(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    workdir: Path,
    movable: Sequence[str] = LOCATIONS,
) -> None:
    """A run directory belongs to one config.

    Args:
      old, new: the config of what is there, and the one given.
      workdir: for the message.
      movable: keys in which they may differ.
    """
    for section in sorted({*old, *new}):
        before, after = old.get(section), new.get(section)
        if section in ("checkpoint", "log") or before == after:
            continue  # how a run is recorded may change, what it computes may not
        if isinstance(before, dict) and isinstance(after, dict):
            differing = [
                key
                for key in sorted({*before, *after})
                # A key that is not there is one that a newer version added.
                if before.get(key) != after.get(key)
                and f"{section}.{key}" not in movable
            ]
            if not differing:
                continue
            key = differing[0]
            section, before, after = f"{section}.{key}", before.get(key), after.get(key)
        raise InputError(
            f"--workdir={workdir} holds a run with config.{section} = {before!r}, not "
            f"{after!r}; choose another folder or the same config"
        )
