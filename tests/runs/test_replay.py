"""Rounds computed again, and their updates in a plane."""

import json

import numpy as np
import pytest
from helpers import BASE, rows

from fedjax_sim.commands import geometry
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs import loop
from fedjax_sim.runs.files import Lock
from fedjax_sim.runs.replay import Replayed, _compare, replay
from fedjax_sim.runs.update_plane import project


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four rounds, of which the checkpoints after the third and fourth are kept."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    config = resolve(
        override(BASE, {"checkpoint.every_rounds": 1, "evaluation.every": 4})
    )
    assert loop.run(config, folder) == (0, json.loads(read(folder)))
    return folder


def read(folder):
    return (folder / "summary.json").read_text()


@pytest.fixture(scope="module")
def last(run):
    """The last round, from the checkpoint before it."""
    return replay(run)


def assert_as_recorded(found, run):
    row = rows(run / "rounds.jsonl")[found.round - 1]

    assert found.client_ids.tolist() == row["clients"]
    assert found.client_ids[found.malicious].tolist() == row["malicious"]
    assert not found.excluded.any()
    # FedAvg's step is their mean, which no norm of a single update says.
    step = np.linalg.norm(found.updates.mean(0))
    assert step == pytest.approx(row["global_step_norm"], rel=1e-4)


def test_last_round_is_the_recorded_one(run, last):
    assert last.round == 4
    assert_as_recorded(last, run)


def test_rounds_without_a_checkpoint_are_reached_from_the_start(run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert_as_recorded(replay(run, 2), run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("key", ["update_norms", "clients"])
def test_other_software_is_noticed(run, last, key):
    """That gives updates or cohorts which differ from the recorded ones."""
    row = rows(run / "rounds.jsonl")[3]
    _compare(row, last, run)
    row[key][0] += 0.1
    with pytest.raises(InputError, match="round 4 comes out otherwise"):
        _compare(row, last, run)


def test_command_writes_the_plane_of_a_round(run, last, capsys, monkeypatch):
    monkeypatch.setattr(geometry, "replay", lambda workdir, round_index: last)
    code = geometry.main(["geometry.py", f"--run={run}"])
    out, err = capsys.readouterr()

    assert (code, err) == (0, "")
    written = json.loads((run / "geometry" / "4.json").read_text())
    row = rows(run / "rounds.jsonl")[3]
    assert [p["client"] for p in written["points"]] == row["clients"]
    attackers = [p["client"] for p in written["points"] if p["malicious"]]
    assert attackers == row["malicious"]
    assert 0 < written["explained"][1] <= written["explained"][0] < 1
    assert str(run / "geometry" / "4.json") in out


def test_wrong_input_is_refused(run, tmp_path, capsys):
    lock = Lock(run)
    try:
        cases = {
            f"--run={tmp_path}": "no run",
            f"--run={run} --round=0": "--round=0: the run has recorded these rounds: "
            "1 to 4",
            f"--run={run} --round=5": "1 to 4",
            f"--run={run} --round=x": "round",
            f"--run={run} more": "more is not a flag",
            f"--run={run} --round=1": "another run is working there",
            "--round=1": "--run must be given",
        }
        for text, part in cases.items():
            assert geometry.main(["geometry.py", *text.split()]) == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and part in err, err
    finally:
        lock.release()


# ------------------------------------------------------------------------- the plane


def received(updates):
    count = len(updates)
    return Replayed(
        round=3,
        client_ids=np.arange(10, 10 + count),
        malicious=np.arange(count) < 2,
        excluded=np.arange(count) == 0,
        updates=np.asarray(updates, np.float32),
    )


def test_plane_keeps_the_distances_of_flat_updates():
    """Points of a plane in ten dimensions, two of them far away."""
    flat = np.array([[9.0, 1], [9, 0], [0, 0], [1, 0], [0, 1], [1, 1]])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 2)))[0]
    found = project(received(flat @ basis.T))
    places = np.array([[p["x"], p["y"]] for p in found["points"]])

    wanted = np.linalg.norm(flat[:, None] - flat, axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(places[:, None] - places, axis=2), wanted, atol=1e-4
    )
    assert sum(found["explained"]) == pytest.approx(1.0)
    clusters = [p["cluster"] for p in found["points"]]
    assert clusters[0] == clusters[1] and len(set(clusters[2:])) == 1
    assert clusters[0] != clusters[2]
    assert [p["client"] for p in found["points"]] == [10, 11, 12, 13, 14, 15]
    assert [p["malicious"] for p in found["points"]] == [True] * 2 + [False] * 4
    assert [p["excluded"] for p in found["points"]] == [True] + [False] * 5


def test_updates_that_are_not_finite_are_left_out():
    updates = np.eye(5)
    updates[1, 3] = np.nan
    found = project(received(updates))
    assert [p["client"] for p in found["points"]] == [10, 12, 13, 14]
    assert found["left_out"].tolist() == [11]

    updates[:3, 0] = np.inf
    with pytest.raises(InputError, match="2 of 5 updates are finite"):
        project(received(updates))
