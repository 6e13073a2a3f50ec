"""A longer run begins where a shorter one with the same config ended, bit by bit.

Rounds do not know how many will follow, but for a learning rate that falls over the run
and for schedules of cohorts that are drawn for a number of rounds.
"""

import inspect
import os
import shutil
from pathlib import Path

from fedjax_sim.contracts.config import Config
from fedjax_sim.experiment.config import to_dict
from fedjax_sim.participation import PARTICIPATIONS
from fedjax_sim.runs.files import plain, read_json, write_json

MARK = "continued.json"  # which run it goes on from, and after how many rounds
_ROWS = ("rounds.jsonl", "metrics.jsonl")


def foresees(config: Config) -> bool:
    """Whether the rounds of a run depend on how many there will be."""
    schedule = PARTICIPATIONS.find(config.participation.name).factory
    drawn = "rounds" in inspect.signature(schedule).parameters
    return config.client.schedule != "constant" or drawn


def begin_from(config: Config, workdir: Path, earlier: Path) -> bool:
    """Lets a run begin after the rounds of a finished one; False: it begins anew.

    Args:
      config: of the run.
      workdir: of the run; nothing happens if it is there already.
      earlier: of a run with the same config but fewer rounds.
    """
    if workdir.exists() or not (earlier / "summary.json").exists():
        return False
    identity = earlier / "identity.json"
    if foresees(config) or not identity.exists():
        return False
    known = read_json(identity, "config", "data", "partition")
    done, own = known["config"].get("rounds"), plain(to_dict(config))
    if {**own, "rounds": done} != known["config"] or not done < config.rounds:
        return False
    saved = earlier / "checkpoints" / str(done)
    # Its last evaluation must be one that the longer run has, too.
    if done % config.evaluation.every or not saved.is_dir():
        return False
    partial = workdir.with_name(f"{workdir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    shutil.copytree(saved, partial / "checkpoints" / str(done))
    for name in _ROWS:
        shutil.copyfile(earlier / name, partial / name)
    write_json(partial / "identity.json", {**known, "config": own})
    write_json(partial / MARK, {"from": earlier.name, "rounds": done})
    os.rename(partial, workdir)
    return True


def rounds_before(workdir: Path) -> int:
    """How many rounds a run did not compute, for a shorter one had."""
    path = workdir / MARK
    return read_json(path, "rounds")["rounds"] if path.exists() else 0
