"""Runs as a user starts them: their files, kills and resumption, wrong input."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    BASE,
    after,
    assert_same_bits,
    build,
    digits,
    files,
    rows,
    start,
    start_state,
    without_times,
    write_config,
)

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.commands import run as cli
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs import loop

ROUNDS = 40
DROPLET = {"defense.name": "droplet", "rounds": ROUNDS, "evaluation.every": 4}

METRICS = {
    "round",
    "mta",
    "test_loss",
    "asr",
    "backdoor_loss",
    "target_confidence",
    "weight_malicious",
    "diverged",
    "train_loss_benign",
    "train_loss_malicious",
    "update_norm_benign",
    "update_norm_malicious",
    "update_norm_max",
    "global_step_norm",
    "rounds_skipped",
    "clients_non_finite",
    "true_positives",
    "false_positives",
    "false_negatives",
    "true_negatives",
    "detection_accuracy",
    "false_positive_rate",
    "false_negative_rate",
    "seconds_train",
    "seconds_defend",
    "seconds_rounds",
    "seconds_evaluate",
    "seconds_compile",
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def droplet_flags(config_file):
    """A run with a state to lose: penalties; saved every round."""
    return [
        f"--config={config_file}",
        *(f"--config.{key}={value}" for key, value in DROPLET.items()),
        "--config.checkpoint.every_rounds=1",
    ]


@pytest.fixture(scope="module")
def finished(droplet_flags, tmp_path_factory):
    """The directory of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "new" / "run"
    process = start(*droplet_flags, workdir=workdir)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1].split()[0] == "droplet"
    return workdir


def last_state(workdir):
    """The state in the newest checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        like = (start_state(build(DROPLET)),)
        return checkpoints.restore(checkpoints.latest(), like)[0]
    finally:
        checkpoints.close()


def assert_same_run(workdir, expected):
    """All rows but the times, the summary and the final state are equal."""
    for name in ("metrics.jsonl", "rounds.jsonl"):
        got = [without_times(row) for row in rows(workdir / name)]
        assert got == [without_times(row) for row in rows(expected / name)], name
    summaries = [
        json.loads((folder / "summary.json").read_text())
        for folder in (workdir, expected)
    ]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
    assert_same_bits(last_state(workdir), last_state(expected))


def wait_for_rounds(process, workdir, count):
    """Waits until the process has recorded a number of rounds."""
    while len(rows(workdir / "rounds.jsonl")) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def snapshot(folder):
    """Times and contents of all files but the lock."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files(folder)}


def command(capfd, *arguments):
    """Runs the command line in this process; returns (exit code, stdout, stderr)."""
    capfd.readouterr()
    code = cli.main(["run.py", *map(str, arguments)])
    return code, *capfd.readouterr()


def assert_refused(result, *parts):
    """Exit code 2 and one line on stderr that holds `parts`."""
    code, _, err = result
    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n"), err
    for part in parts:
        assert str(part) in err


# ------------------------------------------------------------------------ files


def test_a_run_leaves_these_files(finished):
    names = {path.name for path in finished.iterdir()}

    assert names == {
        "config.json",
        "identity.json",
        "partition.npz",
        "provenance.json",
        "metrics.jsonl",
        "rounds.jsonl",
        "summary.json",
        "checkpoints",
        "lock",
    }


def test_checkpoints_after_every_round(finished):
    """As `checkpoint.every_rounds` = 1 says; the newest two are kept."""
    steps = {path.name for path in (finished / "checkpoints").iterdir()}

    assert steps == {str(ROUNDS - 1), str(ROUNDS)}


def test_metrics_rows_hold_every_field(finished):
    found = rows(finished / "metrics.jsonl")

    assert [row["round"] for row in found] == list(range(4, ROUNDS + 1, 4))
    for row in found:
        assert set(row) == METRICS
        assert 0 <= row["mta"] <= 100
        assert 0 <= row["asr"] <= 100
        cells = ("true_positives", "false_positives")
        cells += ("false_negatives", "true_negatives")
        assert sum(row[key] for key in cells) == 4 * 4  # clients and rounds since
        assert row["diverged"] is False
        assert row["seconds_rounds"] > 0
    assert found[-1]["mta"] > 50


def test_round_rows_hold_every_field(finished):
    found = rows(finished / "rounds.jsonl")
    malicious = json.loads((finished / "provenance.json").read_text())[
        "malicious_clients"
    ]

    assert [row["round"] for row in found] == list(range(1, ROUNDS + 1))
    for row in found:
        assert row["clients"] == sorted(set(row["clients"]))
        assert len(row["clients"]) == 4 and row["absent"] == 0
        assert row["malicious"] == [i for i in row["clients"] if i in malicious]
        assert row["acted"] == row["malicious"]
        weights = dict(zip(row["clients"], row["weights"], strict=True))
        assert row["excluded"] == [i for i, w in weights.items() if w == 0]
        assert len(row["losses"]) == len(row["update_norms"]) == 4
        assert {"suspicious", "penalty", "non_finite"} <= set(row["scores"])
        assert row["skipped"] == (sum(row["weights"]) == 0)


def test_summary_and_provenance(finished):
    summary = json.loads((finished / "summary.json").read_text())
    provenance = json.loads((finished / "provenance.json").read_text())
    last = rows(finished / "metrics.jsonl")[-1]

    assert summary["name"] == "droplet"
    assert summary["status"] == "finished"
    assert summary["rounds"] == ROUNDS
    assert summary["final"] == without_times(last)
    assert summary["late"]["mta"] == {"mean": last["mta"], "std": 0.0}  # one row
    attacked = [bool(row["malicious"]) for row in rows(finished / "rounds.jsonl")]
    assert summary["rounds_attacked"] == sum(attacked) > 0
    assert provenance["nothing_to_poison"] == []
    assert summary["attack_knowledge"] == ["own_data"]
    assert summary["oracle_knowledge"] == "none"
    sent = sum(len(row["clients"]) for row in rows(finished / "rounds.jsonl"))
    cost = summary["cost"]
    assert cost["upload_bytes"] == sent * 4 * provenance["parameters"]
    assert cost["defense_state_bytes"] == 6 * (4 + 1)  # a penalty and a ban each
    assert cost["reconstruction_iterations"] == 0
    assert set(summary["seconds"]) == {
        "train",
        "defend",
        "rounds",
        "evaluate",
        "compile",
    }
    assert summary["partition"] == provenance["partition"]["fingerprint"]
    assert provenance["data"]["train"] == 200
    assert provenance["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert len(provenance["malicious_clients"]) == 2
    assert {"jax", "numpy", "fedjax_sim"} <= set(provenance["versions"])
    for key in ("python", "platform", "backend", "devices", "git", "started"):
        assert provenance[key]


def test_summary_of_the_detection(finished):
    """Over all rounds, and as an average over rounds; DROplet expels nobody."""
    found = json.loads((finished / "summary.json").read_text())["detection"]
    malicious = json.loads((finished / "provenance.json").read_text())[
        "malicious_clients"
    ]
    flags = [
        (client in row["excluded"], client in malicious, row["round"])
        for row in rows(finished / "rounds.jsonl")
        for client in row["clients"]
    ]
    count = lambda a, b: sum(flag[:2] == (a, b) for flag in flags)

    assert len(flags) == 4 * ROUNDS
    assert found["true_positives"] == count(True, True)
    assert found["false_positives"] == count(True, False)
    assert found["false_negatives"] == count(False, True)
    assert found["true_negatives"] == count(False, False)
    right = [a == b for a, b, _ in flags]
    assert found["detection_accuracy"] == pytest.approx(100 * np.mean(right))
    assert found["adacc"] == pytest.approx(100 * np.mean(right))  # equal cohorts
    assert found["aar"] == count(False, True) / len(malicious)
    assert [found[key] for key in ("dacc", "fpr", "fnr", "aoi")] == [None] * 4


def test_summary_of_the_backdoor(finished):
    """Success in every fourth round says nothing about how long it lasted."""
    assert json.loads((finished / "summary.json").read_text())["backdoor"] is None


def test_config_json_holds_every_key(finished, droplet_flags, capfd):
    _, out, _ = command(capfd, *droplet_flags, "--print_config")

    assert json.loads((finished / "config.json").read_text()) == json.loads(out)


# ---------------------------------------------------------------- kill and resume


def kill_and_finish(flags, workdir, kills, seed):
    """Kills a run several times, in different phases, then lets it finish."""
    rng = random.Random(seed)
    reached = 0
    for number in range(kills):
        process = start(*flags, workdir=workdir)
        try:
            if number % 3 == 1:  # while importing, building or compiling
                time.sleep(rng.uniform(0.5, 3.0))
            else:  # a few rounds past the last kill: training, saving, evaluating
                room = (ROUNDS - reached) // (2 * (kills - number) + 1)
                ahead = rng.randint(1, max(1, min(4, room)))
                wait_for_rounds(process, workdir, reached + ahead)
                time.sleep(rng.uniform(0.0, 0.05))
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        reached = max(reached, len(rows(workdir / "rounds.jsonl")))
    assert not (workdir / "summary.json").exists()
    assert reached > 0

    process = start(*flags, workdir=workdir)
    process.communicate(timeout=300)  # orbax may warn of a half checkpoint
    assert process.returncode == 0


def test_a_killed_run_ends_with_the_same_bits(droplet_flags, finished, tmp_path):
    kill_and_finish(droplet_flags, tmp_path, 1, seed=1)

    assert_same_run(tmp_path, finished)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_bits(
    droplet_flags, finished, tmp_path
):
    kill_and_finish(droplet_flags, tmp_path, 10, seed=2)

    assert_same_run(tmp_path, finished)


def test_terminated_then_resumed(droplet_flags, finished, tmp_path, capfd):
    """Meanwhile nobody else may work in the same directory."""
    process = start(*droplet_flags, workdir=tmp_path)
    try:
        wait_for_rounds(process, tmp_path, 2)
        process.send_signal(signal.SIGSTOP)  # so that it does not finish meanwhile
        refused = command(capfd, *droplet_flags, f"--workdir={tmp_path}")
        process.send_signal(signal.SIGCONT)
        process.terminate()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()

    assert_refused(refused, tmp_path, "another run")
    assert (process.returncode, err) == (75, "")
    done = len(rows(tmp_path / "rounds.jsonl"))
    assert f"stopped after round {done} of {ROUNDS}" in out
    assert (tmp_path / "checkpoints" / str(done)).is_dir()
    assert not (tmp_path / "summary.json").exists()

    code, _, err = command(capfd, *droplet_flags, f"--workdir={tmp_path}")
    assert (code, err) == (0, "")
    assert_same_run(tmp_path, finished)


def test_a_lost_row_is_noticed(droplet_flags, finished, tmp_path, capfd):
    """A power failure may take what a checkpoint relies on."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    for name in ("metrics.jsonl", "rounds.jsonl"):
        path = workdir / name
        whole = path.read_text()
        path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
        refused = command(capfd, *droplet_flags, f"--workdir={workdir}")
        assert_refused(refused, workdir, name, f"round {ROUNDS} is missing")
        path.write_text(whole)
    code, _, err = command(capfd, *droplet_flags, f"--workdir={workdir}")
    assert (code, err) == (0, "")
    assert_same_run(workdir, finished)


@pytest.mark.slow
def test_a_signal_before_the_first_round(config_file, tmp_path, capfd, monkeypatch):
    """It waits until the program is compiled; the same command then begins."""
    build = loop.build

    def build_and_signal(*arguments):
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
        return build(*arguments)

    flags = (f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    monkeypatch.setattr(loop, "build", build_and_signal)
    code, out, _ = command(capfd, *flags, "--config.rounds=1")
    assert code == 75 and "stopped after round 0 of 1" in out
    monkeypatch.undo()
    # Nothing was computed: another config may have the folder.
    code, _, err = command(capfd, *flags, "--config.rounds=2")
    assert (code, err) == (0, "")


def test_what_happened_to_useless_updates_is_said(config_file, tmp_path, capfd):
    flags = (f"--config={config_file}", f"--workdir={tmp_path}", "--config.rounds=2")
    code, _, err = command(capfd, *flags, "--config.client.lr=1e30")
    assert code == 0
    assert "8 of 8 updates held NaN or Inf and were left out; 2 rounds" in err


def test_killed_before_the_summary(droplet_flags, finished, tmp_path, capfd):
    """The last checkpoint is there, the summary is not."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()

    code, _, err = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert (code, err) == (0, "")
    assert_same_run(workdir, finished)


@pytest.mark.parametrize(
    "kept",
    [lambda size: size // 2, pytest.param(lambda size: 10, marks=pytest.mark.slow)],
)
def test_a_damaged_checkpoint_is_refused(
    droplet_flags, finished, tmp_path, capfd, kept
):
    """It is named; without it the run goes on from the one before."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    newest = workdir / "checkpoints" / str(ROUNDS)
    for path in files(newest):
        os.truncate(path, kept(path.stat().st_size))
    before = [(workdir / f"{n}.jsonl").read_bytes() for n in ("metrics", "rounds")]

    process = start(*droplet_flags, workdir=workdir)  # as a user sees it, with its logs
    out, err = process.communicate(timeout=300)
    assert_refused((process.returncode, out, err), newest)

    after = [(workdir / f"{n}.jsonl").read_bytes() for n in ("metrics", "rounds")]
    assert after == before
    shutil.rmtree(newest)
    code, _, err = command(capfd, *droplet_flags, f"--workdir={workdir}")
    assert (code, err) == (0, "")
    assert_same_run(workdir, finished)


def test_a_row_cut_short_is_written_again(droplet_flags, finished, tmp_path, capfd):
    """A kill in the middle of a write: the half row is written again."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / str(ROUNDS))
    for name in ("metrics.jsonl", "rounds.jsonl"):
        path = workdir / name
        os.truncate(path, path.stat().st_size - 20)

    code, _, err = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert (code, err) == (0, "")
    assert_same_run(workdir, finished)


def test_finished_run_is_left_alone(droplet_flags, finished, capfd):
    before = snapshot(finished)

    code, out, err = command(capfd, *droplet_flags, f"--workdir={finished}")

    assert (code, err) == (0, "")
    assert "finished already" in out
    assert out.splitlines()[-1].split()[0] == "droplet"  # the table again
    assert snapshot(finished) == before


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--config.client.lr=0.2", "config.client.lr"),
        ("--config.seed=1", "config.seed"),
        ("--config.rounds=30", "config.rounds"),
        ("--config.attack.dpr=0.5", "config.attack.dpr"),
        ("--config.defense.penalty=2.0", "config.defense.penalty"),
    ],
)
def test_another_config_in_the_same_directory(
    droplet_flags, finished, capfd, flag, key
):
    before = snapshot(finished)

    result = command(capfd, *droplet_flags, flag, f"--workdir={finished}")

    assert_refused(result, key, finished)
    assert snapshot(finished) == before


def test_config_of_an_older_version(droplet_flags, finished, tmp_path, capfd):
    """A key whose value is null now and that was not known then."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    saved = json.loads((workdir / "config.json").read_text())
    del saved["defense"]["blacklist_threshold"]
    (workdir / "config.json").write_text(json.dumps(saved))

    code, _, err = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert code in (0, 2)
    assert err.count("\n") == (code == 2)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_damaged_json_file_is_refused(droplet_flags, finished, tmp_path, capfd, name):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    path = workdir / name
    os.truncate(path, 20)

    result = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert_refused(result, path)


def test_damaged_rows_are_refused(droplet_flags, finished, tmp_path, capfd):
    """Not a cut last row, which a kill leaves, but noise in the middle."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    path = workdir / "rounds.jsonl"
    path.write_text(path.read_text().replace('"clients"', '"clients', 1))

    result = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert_refused(result, path)


def test_rows_of_another_run_are_refused(droplet_flags, finished, tmp_path, capfd):
    """Valid ones, in which a digit has changed: a disk does that."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    path = workdir / "metrics.jsonl"
    other = lambda found: f'"mta": {9 - int(found[1])}'
    path.write_text(re.sub(r'"mta": (\d)', other, path.read_text(), count=1))

    result = command(capfd, *droplet_flags, f"--workdir={workdir}")

    assert_refused(result, "the rows in rounds.jsonl or metrics.jsonl are not those")


# ---------------------------------------------------------------------- options


def test_options_of_the_log_change_what_is_written(config_file, tmp_path, capfd):
    """Events for TensorBoard, no rows per round, more measures."""
    pytest.importorskip("tensorboardX")
    code, _, err = command(
        capfd,
        f"--config={config_file}",
        f"--workdir={tmp_path / 'run'}",
        "--config.log.tensorboard=true",
        "--config.evaluation.any_source=true",
        "--config.evaluation.low_confidence_threshold=0.4",
    )

    assert (code, err) == (0, "")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"mta" in events.read_bytes()
    more = {"asr_any_source", "asr_all"}
    more |= {"retained", "conditional_mta", "retained_asr", "conditional_asr"}
    found = rows(tmp_path / "run" / "metrics.jsonl")
    for row in found:
        assert set(row) == METRICS | more
    success = [row["asr_all"] for row in found]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["backdoor"]["measure"] == "asr_all"
    assert summary["backdoor"]["mean_asr"] == pytest.approx(np.mean(success))
    assert summary["backdoor"]["by_phase"] == success
    assert len(summary["backdoor"]["starts"]) == len(summary["backdoor"]["lengths"])


def test_non_finite_clients_are_counted(config_file, tmp_path, capfd, monkeypatch):
    def broken():
        craft = lambda state, view: (state, view.updates * np.nan)
        return Attack(knowledge=("own_updates",), craft=craft)

    monkeypatch.setitem(ATTACKS, "broken", Entry(broken, "-"))
    code, _, err = command(
        capfd,
        f"--config={config_file}",
        f"--workdir={tmp_path / 'run'}",
        "--config.attack.name=broken",
        "--config.participation.clients_per_round=6",
        "--config.evaluation.every=2",
    )

    assert code == 0
    assert err.endswith(
        ": 8 of 24 updates held NaN or Inf and were left out; 0 rounds had no other\n"
    )
    found = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["clients_non_finite"] for row in found] == [4, 4]
    assert [row["true_positives"] for row in found] == [4, 4]
    assert [row["update_norm_malicious"] for row in found] == [None, None]
    assert not any(row["diverged"] for row in found)


def test_summary_of_expelled_clients(config_file, tmp_path, capfd):
    """Who is found suspicious once is banned: the final labels of detection."""
    code, _, err = command(
        capfd,
        f"--config={config_file}",
        f"--workdir={tmp_path / 'run'}",
        "--config.rounds=3",
        "--config.participation.clients_per_round=6",
        "--config.defense.name=droplet",
        "--config.defense.blacklist_threshold=1.0",
    )

    assert (code, err) == (0, "")
    read = lambda name: json.loads((tmp_path / "run" / name).read_text())
    found = rows(tmp_path / "run" / "rounds.jsonl")
    banned = {client for row in found for client in row["excluded"]}
    expelled = np.isin(np.arange(6), sorted(banned))
    malicious = np.isin(np.arange(6), read("provenance.json")["malicious_clients"])
    detection = read("summary.json")["detection"]
    assert expelled.any() and not expelled.all()
    assert detection["dacc"] == pytest.approx(100 * (expelled == malicious).mean())
    assert detection["fpr"] == pytest.approx(100 * expelled[~malicious].mean())
    assert detection["fnr"] == pytest.approx(100 * (~expelled[malicious]).mean())
    assert found[1]["absent"] == len(found[0]["excluded"]) > 0


# ------------------------------------------------------------------- wrong input

WRONG = {
    "unknown key": (
        ["--config.client.learning_rate=0.1"],
        ["config.client.learning_rate", "allowed: "],
    ),
    "misspelt key": (["--config.client.momentun=0.1"], ["did you mean 'momentum'"]),
    "misspelt option": (
        ["--config.defense.name=droplet", "--config.defense.penalti=1.0"],
        ["config.defense.penalti", "did you mean 'penalty'"],
    ),
    "misspelt section": (["--config.clinet.lr=1"], ["did you mean 'client'"]),
    "misspelt name": (["--config.defense.name=dropplet"], ["did you mean 'droplet'"]),
    "misspelt flag": (["--wrokdir=x"], ["did you mean 'workdir'"]),
    "text for a number": (["--config.client.lr=fast"], ["config.client.lr = 'fast'"]),
    "float for an int": (["--config.rounds=2.5"], ["config.rounds = 2.5"]),
    "zero rounds": (["--config.rounds=0"], ["config.rounds = 0"]),
    "negative rate": (["--config.client.lr=-1"], ["config.client.lr = -1"]),
    "not a number": (["--config.client.lr=nan"], ["config.client.lr"]),
    "negative seed": (["--config.seed=-1"], ["seed"]),
    "huge seed": ([f"--config.seed={2**70}"], ["seed"]),
    "no option": (["--config.defense=droplet"], ["config.defense"]),
    "strategy": (["--config.execution.clients=chunk:0"], ["chunk:0"]),
    "cohort above population": (
        ["--config.participation.clients_per_round=7"],
        ["config.participation.clients_per_round = 7", "6"],
    ),
    "attack without attackers": (
        ["--config.attack.num_malicious=0"],
        ["config.attack.num_malicious = 0"],
    ),
    "more clients than samples": (
        ["--config.partition.num_clients=500"],
        ["num_clients", "500", "200"],
    ),
    "more samples than there are": (
        ["--config.data.num_train=5000"],
        ["config.data.num_train = 5000", "1437"],
    ),
    "enforced share": (
        [
            "--config.participation.name=enforced",
            "--config.participation.clients_per_round=5",
        ],
        ["participation.name = 'enforced'"],
    ),
    "missing data": (
        ["--config.data.name=cifar10", "--config.data.data_dir=/nowhere"],
        ["/nowhere"],
    ),
    "no data_dir": (["--config.data.name=cifar10"], ["data_dir"]),
    "too few clients": (
        [
            "--config.defense.name=multikrum",
            "--config.participation.clients_per_round=3",
        ],
        ["config.defense.num_byzantine", "3 clients"],
    ),
    "missing schedule": (
        [
            "--config.participation.name=explicit",
            "--config.participation.schedule=/nowhere.npy",
        ],
        ["config.participation.schedule", "/nowhere.npy"],
    ),
    "no schedule": (
        ["--config.participation.name=explicit"],
        ["config.participation.schedule"],
    ),
    "same class": (["--config.attack.victim_class=7"], ["attack.victim_class = 7"]),
    "class outside": (["--config.attack.target_class=10"], ["attack.target_class"]),
    "dpr outside": (["--config.attack.dpr=1.5"], ["dpr"]),
    "too little memory": (["--config.execution.memory_gib=1e-9"], ["memory_gib"]),
    "images too small": (["--config.model.name=cnn"], ["cnn", "8x8"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case, config_file, tmp_path, capfd):
    flags, parts = WRONG[case]
    workdir = tmp_path / "run"

    result = command(capfd, f"--config={config_file}", f"--workdir={workdir}", *flags)

    assert_refused(result, *parts)
    assert list(files(tmp_path)) == []


@pytest.mark.parametrize("case", ["misspelt key", "too few clients", "missing data"])
def test_wrong_input_leaves_results_alone(case, finished, droplet_flags, capfd):
    before = snapshot(finished)

    result = command(capfd, *droplet_flags, *WRONG[case][0], f"--workdir={finished}")

    assert_refused(result)
    assert snapshot(finished) == before


def test_a_missing_config_file_is_refused(tmp_path, capfd):
    path = tmp_path / "nowhere.py"

    result = command(capfd, f"--config={path}", f"--workdir={tmp_path / 'run'}")

    assert_refused(result, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--workdir=x"]])
def test_a_config_must_be_given(flags, capfd):
    assert_refused(command(capfd, *flags), "--config")


def test_a_workdir_must_be_given(config_file, capfd):
    assert_refused(command(capfd, f"--config={config_file}"), "--workdir")


def test_a_workdir_below_a_file_is_refused(config_file, tmp_path, capfd):
    blocked = tmp_path / "file"
    blocked.write_text("mine")

    for workdir in (blocked, blocked / "run"):
        result = command(capfd, f"--config={config_file}", f"--workdir={workdir}")
        assert_refused(result, workdir)
    assert blocked.read_text() == "mine"


def test_workdir_that_takes_no_file(config_file, tmp_path, capfd):
    """As in a read-only folder, but also for root: the lock cannot be opened."""
    (tmp_path / "lock").mkdir()

    result = command(capfd, f"--config={config_file}", f"--workdir={tmp_path}")

    assert_refused(result, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workdir_is_refused(config_file, tmp_path, capfd):
    tmp_path.chmod(0o500)
    try:
        for workdir in (tmp_path, tmp_path / "run"):
            result = command(capfd, f"--config={config_file}", f"--workdir={workdir}")
            assert_refused(result, workdir)
    finally:
        tmp_path.chmod(0o700)


def test_variant_folder_that_is_a_file(tmp_path, capfd):
    path = write_config(tmp_path)
    text = path.read_text().replace(
        "ConfigDict({", "ConfigDict({'variants': {'one': {}}, ", 1
    )
    path.write_text(text)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one").write_text("mine")

    result = command(capfd, f"--config={path}", f"--workdir={tmp_path / 'run'}")

    assert_refused(result, tmp_path / "run" / "one")


def test_wrong_input_from_a_shell(config_file, tmp_path):
    """The exit code and the one line as the operating system sees them."""
    process = start(f"--config={config_file}", "--config.rounds=x", workdir=tmp_path)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2
    assert len(err.splitlines()) == 1


def test_attack_effect_is_the_distance_from_the_run_without_attack(tmp_path, capfd):
    config = write_config(tmp_path)
    workdir = tmp_path / "run"
    flags = ("--config.evaluation.attack_effect=true", "--config.rounds=3")
    code, *_ = command(capfd, f"--config={config}", f"--workdir={workdir}", *flags)
    assert code == 0
    measured = [row["attack_effect"] for row in rows(workdir / "metrics.jsonl")]

    changes = {"rounds": 3}
    attacked, clean = (
        after(build({**changes, **other}), 3) for other in ({}, {"attack.name": "none"})
    )
    distance = np.linalg.norm(attacked.params - clean.params)
    np.testing.assert_allclose(measured[-1], distance, rtol=1e-3)
    assert measured[-1] > 0


@pytest.mark.slow
def test_attack_effect_estimate_begins_with_the_attack(tmp_path, monkeypatch):
    # Run and twin are two programs; the code generator of a user rounds them alike.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    flags = {
        "rounds": 4,
        "evaluation.attack_effect": True,
        "evaluation.every": 1,
        "attack.start_round": 2,
        "attack.end_round": 3,
        "participation.clients_per_round": 6,
    }
    workdir = tmp_path / "run"
    arguments = [f"--config.{key}={value}" for key, value in flags.items()]
    config = write_config(tmp_path)
    process = start(f"--config={config}", *arguments, workdir=workdir)
    assert process.communicate(timeout=300)[1] == ""
    assert process.returncode == 0
    found = rows(workdir / "metrics.jsonl")
    measured = [row["attack_effect"] for row in found]
    estimate = [row["attack_effect_estimate"] for row in found]

    assert measured[0] == estimate[0] == 0
    assert estimate[1] == measured[1] > 0
    assert 0 < estimate[3] < estimate[2] < estimate[1]
    assert estimate[2] != measured[2]


# ---------------------------------------------------------------- what a run is of


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of the finished run, as if it had been killed before its summary."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / str(ROUNDS))
    return workdir


@pytest.mark.parametrize("lost", ["config.json", "config.json identity.json"])
def test_checkpoints_of_another_config_are_refused(
    droplet_flags, unfinished, capfd, lost
):
    """Also where the file that says so is gone."""
    for name in lost.split():
        (unfinished / name).unlink()
    flags = [*droplet_flags, f"--workdir={unfinished}", "--config.client.lr=0.001"]
    wanted = "config.client.lr" if lost == "config.json" else "identity.json"
    assert_refused(command(capfd, *flags), str(unfinished), wanted)


@pytest.mark.parametrize(
    "part",
    [
        "train_labels",
        *(
            pytest.param(part, marks=pytest.mark.slow)
            for part in ("train_images", "test_labels")
        ),
    ],
)
def test_checkpoints_on_other_data_are_refused(tmp_path, part):
    data = digits()
    config = resolve(override(BASE, {"data": {"name": "arrays"}}))
    two = config.model_copy(update={"rounds": 2})
    folder = tmp_path / "run"
    assert loop.run(two, folder, dataset=data)[0] == 0
    (folder / "summary.json").unlink()
    changed = data._replace(**{part: getattr(data, part)[::-1].copy()})
    with pytest.raises(InputError, match="fingerprint") as error:
        loop.run(two, folder, dataset=changed)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert loop.run(two, folder, dataset=data)[0] == 0


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, where):
    checkpoints = Checkpoints(tmp_path)
    state = {"a": np.arange(5000, dtype=np.float32), "b": np.int32(3)}
    checkpoints.save(1, state)
    largest = max(files(tmp_path / "1"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[int(where * len(content))] ^= 1
    largest.write_bytes(content)
    with pytest.raises(InputError, match=r"/1: the checkpoint cannot be read"):
        checkpoints.restore(1, state)
    checkpoints.close()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"\[3\], not \[4\]"):
        checkpoints.restore(1, {"a": np.zeros(4, np.float32)})
    checkpoints.close()


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.6),
        (signal.SIGTERM, 2.5),
        *(
            pytest.param(number, after, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGTERM)
            for after in (0.1, 1.5)
        ),
    ],
)
def test_a_signal_at_any_time_before_the_first_round(
    droplet_flags, tmp_path, after, number
):
    """Also while the libraries are imported: one line, exit code 75, no traceback."""
    process = start(*droplet_flags, workdir=tmp_path / "run")
    wait_for_python(process.pid)
    time.sleep(after)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "Traceback" not in err and err.count("\n") <= 1
    assert "goes on" in out + err


def wait_for_python(pid):
    """Waits until a process has set its handler of SIGINT."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16)
        if caught & 1 << (signal.SIGTERM - 1):
            return
        time.sleep(0.005)
    raise TimeoutError
