"""A longer run that begins where a shorter one ended is the longer run, bit by bit."""

import json
import shutil

import numpy as np
import pytest
from helpers import BASE, rows, without_times

from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs import loop
from fedjax_sim.runs.continued import begin_from, foresees, rounds_before


def parameters(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.arrays(checkpoints.latest())
    checkpoints.close()
    return found


def configured(rounds, **changes):
    base = {"defense.name": "droplet", "data.num_train": 300, "rounds": rounds}
    return resolve(override(BASE, {**base, **changes}))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued") / "short"
    assert loop.run(configured(2), folder)[0] == 0
    return folder


def test_it_is_the_longer_run(short, tmp_path):
    whole, later = tmp_path / "whole", tmp_path / "later"
    loop.run(configured(4), whole)
    assert begin_from(configured(4), later, short)
    assert rounds_before(later) == 2 and rounds_before(whole) == 0
    assert json.loads((later / "continued.json").read_text())["from"] == "short"
    loop.run(configured(4), later)

    for file in ("rounds.jsonl", "metrics.jsonl"):
        got, wanted = rows(later / file), rows(whole / file)
        assert list(map(without_times, got)) == list(map(without_times, wanted))
    for name, value in parameters(whole).items():
        if "checksum" not in name and "beside" not in name:
            np.testing.assert_array_equal(parameters(later)[name], value, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"attack.dpr": 0.5},
        {"rounds": 2},
        {"client.schedule": "cosine"},
    ],
)
def test_of_another_config_it_begins_anew(short, tmp_path, changes):
    other = configured(**{"rounds": 4, **changes})
    assert not begin_from(other, tmp_path / "later", short)
    assert not (tmp_path / "later").exists()
    assert foresees(other) == ("client.schedule" in changes)


def test_what_is_there_or_unfinished_stays(short, tmp_path):
    (tmp_path / "later").mkdir()
    assert not begin_from(configured(4), tmp_path / "later", short)
    assert list((tmp_path / "later").iterdir()) == []
    half = tmp_path / "half"
    shutil.copytree(short, half)
    (half / "summary.json").unlink()
    assert not begin_from(configured(4), tmp_path / "new", half)


def test_its_last_evaluation_must_be_one_of_the_longer_run(short, tmp_path):
    """Else there would be a row that the longer run has not."""
    folder = tmp_path / "odd"
    shutil.copytree(short, folder)
    identity = json.loads((folder / "identity.json").read_text())
    identity["config"]["evaluation"]["every"] = 4
    (folder / "identity.json").write_text(json.dumps(identity))
    assert not begin_from(
        configured(8, **{"evaluation.every": 4}), tmp_path / "later", folder
    )
