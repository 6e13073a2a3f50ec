"""Runs over two processes: the same as over one, ended and resumed together."""

import contextlib
import signal
import socket
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import files, rows, start, without_times, write_config

from fedjax_sim.commands import run as cli
from fedjax_sim.runs.files import Lock, read_json

# The defence calls the host in every round.
FLAGS = ["--config.execution.devices=2", "--config.defense.name=droplet"]


def start_two(config, *flags, workdir, second=()):
    """Starts the two processes of a run; `second` has more flags for the second."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = [f"--config={config}", f"--coordinator=127.0.0.1:{port}", *FLAGS, *flags]
    return [
        start(
            *common, "--num_processes=2", f"--process_id={i}", *extra, workdir=workdir
        )
        for i, extra in enumerate([(), second])
    ]


@contextlib.contextmanager
def both(processes):
    """Leaves no process behind when a test fails."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def ends(processes):
    """What each process wrote: [(exit code, stdout, stderr)]."""
    found = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, found, strict=True)]


def checkpoint(workdir):
    """The arrays of the newest checkpoint."""
    steps = (workdir / "checkpoints").iterdir()
    newest = max(
        (path for path in steps if path.name.isdigit()), key=lambda p: int(p.name)
    )
    return ocp.StandardCheckpointer().restore((newest / "default").absolute())


def assert_same_run(first, second):
    """Rows and final state agree in every bit."""
    for name in ("metrics.jsonl", "rounds.jsonl"):
        one, other = (
            [without_times(row) for row in rows(folder / name)]
            for folder in (first, second)
        )
        assert one == other and one
    one, other = checkpoint(first), checkpoint(second)
    assert one.keys() == other.keys()
    for name in one.keys() - {"beside", "checksum"}:  # of the rows with their times
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Of one device each, against one process of two devices."""
    config = write_config(tmp_path)
    alone = start(f"--config={config}", *FLAGS, workdir=tmp_path / "one")
    with both([alone, *start_two(config, workdir=tmp_path / "two")]) as processes:
        one, leader, follower = ends(processes)

    assert one[0] == leader[0] == follower[0] == 0, (one, leader, follower)
    assert "droplet: round 4/4" in leader[1] and "droplet: round" not in follower[1]
    assert read_json(tmp_path / "two" / "provenance.json")["processes"] == 2
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_signal_to_one_stops_both(tmp_path):
    """And both go on together; the result is that of a run that nobody disturbed."""
    config = write_config(tmp_path)
    long = [
        "--config.rounds=300",
        "--config.evaluation.every=10",
        "--config.evaluation.attack_effect=true",  # a second state
    ]
    with both(start_two(config, *long, workdir=tmp_path / "two")) as processes:
        wait_for_rounds(tmp_path / "two", processes)
        processes[1].send_signal(signal.SIGTERM)
        leader, follower = ends(processes)
    assert leader[0] == follower[0] == 75, (leader, follower)
    assert "stopped after round" in leader[1]
    done = len(rows(tmp_path / "two" / "rounds.jsonl"))
    assert (tmp_path / "two" / "checkpoints" / str(done)).is_dir()

    alone = start(f"--config={config}", *FLAGS, *long, workdir=tmp_path / "one")
    resumed = start_two(config, *long, workdir=tmp_path / "two")
    with both([alone, *resumed]) as processes:
        assert [code for code, *_ in ends(processes)] == [0, 0, 0]
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_takes_the_other_along(tmp_path, killed):
    config = write_config(tmp_path)
    with both(start_two(config, "--config.rounds=100000", workdir=tmp_path)) as two:
        wait_for_rounds(tmp_path, two)
        two[killed].kill()
        assert two[1 - killed].wait(timeout=60) != 0


def wait_for_rounds(workdir, processes):
    while len(rows(workdir / "metrics.jsonl")) < 2:
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_mistake_ends_both(tmp_path):
    """Whichever process sees it, each tells it in one line."""
    config = write_config(tmp_path)
    other = start_two(config, workdir=tmp_path / "a", second=["--config.client.lr=0.2"])
    busy = start_two(config, workdir=tmp_path / "b")
    (tmp_path / "b").mkdir()
    lock = Lock(tmp_path / "b")
    with both([*other, *busy]) as processes:
        found = ends(processes)
    lock.release()

    assert [code for code, *_ in found] == [2] * 4, found
    errors = [
        [line for line in err.splitlines() if line.startswith("error: ")]
        for _, _, err in found
    ]
    assert [len(lines) for lines in errors] == [1] * 4
    assert "process 1 has another config" in errors[0][0]
    assert "another run is working there" in errors[2][0]
    assert "process 0: " in errors[3][0] and "another run is working" in errors[3][0]
    assert not list(files(tmp_path / "b"))


@pytest.mark.slow
def test_no_cluster_to_find(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = f"--config={write_config(tmp_path)}"
    process = start(config, "--coordinator=auto", workdir=tmp_path / "run")
    with both([process]):
        [(code, _, err)] = ends([process])

    assert code == 2
    assert err.startswith("error: --coordinator=auto: JAX knows no cluster here")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--num_processes=2"], ["--num_processes=2 needs --coordinator"]),
        (["--process_id=0"], ["--process_id=0 needs --coordinator"]),
        (["--coordinator=here"], ["--coordinator=here", "HOST:PORT"]),
        (["--coordinator=here:80"], ["here:80 needs --num_processes"]),
        (
            ["--coordinator=here:80", "--num_processes=2"],
            ["here:80 needs --process_id"],
        ),
        (
            ["--coordinator=here:80", "--num_processes=2", "--process_id=2"],
            ["--process_id=2 must be less than --num_processes=2"],
        ),
        (["--coordinator=auto", "--process_id=1"], ["--process_id=1", "auto finds it"]),
        (["--num_processes=0"], ["num_processes"]),
        (["--coordinater=auto"], ["did you mean 'coordinator'"]),
    ],
)
def test_wrong_flags_are_refused(tmp_path, capfd, flags, parts):
    config = write_config(tmp_path)
    workdir = tmp_path / "run"
    code = cli.main(["run.py", f"--config={config}", f"--workdir={workdir}", *flags])

    err = capfd.readouterr().err
    assert code == 2
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not workdir.exists()
