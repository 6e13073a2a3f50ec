"""Sweeps as jobs: killed, warned, joined, failing; on submitit's local cluster.

docs/slurm.md says how to try them on a real Slurm.
"""

import os
import signal

import psutil
import pytest
from helpers import BASE
from sweep_helpers import (
    LONG,
    assert_same_results,
    command,
    recorded,
    start,
    wait_until,
)

from fedjax_sim.sweeps import slurm

LOCAL = ["--cluster=local", "--jobs=2"]


def tasks(root):
    """The processes of local jobs that carry out runs."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "submitit.core._submit" in (command := process.info["cmdline"] or [])
        and str(root / "jobs" / "local") in command
    ]


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(tmp_path):
    yield
    for task in tasks(tmp_path):
        task.kill()


@pytest.mark.slow
def test_a_killed_job_fails_its_runs_only(sweep_file, finished, tmp_path, capfd):
    """As the out-of-memory killer would. The next start loses and doubles nothing."""
    process = start(sweep_file, tmp_path, *LONG, *LOCAL)
    wait_until(process, lambda: recorded(tmp_path) >= 3)
    tasks(tmp_path)[0].kill()
    out, err = process.communicate(timeout=300)

    assert (process.returncode, err) == (1, "")
    assert "2 runs in 2 new jobs" in out
    assert "1 finished, 1 failed" in out
    (error,) = tmp_path.glob("*/error.txt")
    assert "died; out of memory?" in error.read_text()

    code, out, err = command(capfd, sweep_file, tmp_path, *LONG)
    assert (code, err) == (0, "")
    assert "[1/1] finished" in out and not error.exists()
    assert_same_results(tmp_path, finished)


@pytest.mark.slow
def test_failing_run_does_not_stop_the_others(tmp_path, capfd):
    """A share of two runs, the first of which its machine cannot carry out."""
    path = tmp_path / "sweep.py"
    path.write_text(
        f"from fedjax_sim.sweeps import Sweep\nBASE = {BASE!r}\n"
        "def get_sweep():\n"
        "    return Sweep(BASE, [{'data.num_train': 5000}, {'data.num_train': 200}])\n"
    )
    root = tmp_path / "results"
    code, out, err = command(capfd, path, root, "--cluster=local", "--jobs=1")

    assert (code, err) == (1, "")
    assert "2 runs in 1 new jobs" in out
    assert "InputError: config.data.num_train = 5000 must be at most 1437" in out
    assert "1 finished, 1 failed" in out


@pytest.mark.slow
def test_a_warned_job_goes_back_to_the_queue(sweep_file, finished, tmp_path):
    """Twice, in one job of two runs: while one is built, and in its loop."""
    process = start(sweep_file, tmp_path, *LONG, "--cluster=local", "--jobs=1")
    log = lambda: "".join(p.read_text() for p in tmp_path.glob("jobs/local/*_log.err"))
    wait_until(process, lambda: list(tmp_path.glob("*/lock")))
    tasks(tmp_path)[0].send_signal(signal.SIGUSR2)
    wait_until(process, lambda: log().count("Requeued job") == 1)
    wait_until(process, lambda: recorded(tmp_path) >= 3)
    tasks(tmp_path)[0].send_signal(signal.SIGUSR2)
    _, err = process.communicate(timeout=300)

    assert (process.returncode, err) == (0, "")
    assert log().count("Requeued job") == 2
    assert "stopped after round" in "".join(
        path.read_text() for path in tmp_path.glob("jobs/local/*_log.out")
    )
    assert_same_results(tmp_path, finished)


@pytest.mark.slow
def test_a_second_start_joins_the_jobs(sweep_file, finished, tmp_path, capfd):
    """The first start is stopped while its jobs work; one of them is stopped, too."""
    first = start(sweep_file, tmp_path, *LONG, *LOCAL)
    wait_until(first, lambda: recorded(tmp_path) >= 1 and len(tasks(tmp_path)) == 2)
    working = tasks(tmp_path)
    for task in working:
        task.suspend()
    first.terminate()
    assert first.wait(timeout=60) == 75
    until(first, "the jobs go on without this command")

    second = start(sweep_file, tmp_path, *LONG, *LOCAL)
    until(second, "2 runs are in jobs of an earlier start")
    working[0].terminate()
    for task in working:
        task.resume()
    out, err = second.communicate(timeout=300)
    assert (second.returncode, err) == (75, "")
    assert "new jobs" not in out and "1 finished, 1 interrupted" in out

    code, _, err = command(capfd, sweep_file, tmp_path, *LONG, *LOCAL)
    assert (code, err) == (0, "")
    assert_same_results(tmp_path, finished)


def until(process, text):
    """Reads the output up to a text; local jobs hold the pipe, so there is no end."""
    while text not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


def test_jobs_that_slurm_lists_are_alive(tmp_path, monkeypatch, capfd):
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$1" = --noheader ] && echo "7_0\n7_2\n9"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert slurm._alive(["7_0", "7_1", "8"], "slurm") == {"7_0"}

    squeue.write_text("#!/bin/sh\necho 'Unable to contact controller' >&2; exit 1\n")
    assert slurm._alive(["7_0", "8"], "slurm") == {"7_0", "8"}
    assert "Unable to contact controller" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--jobs=2"], ["--jobs needs --cluster"]),
        (["--submit=timeout_min=5"], ["--submit needs --cluster"]),
        ([*LOCAL, "--processes=2"], ["--processes=2", "--jobs"]),
        ([*LOCAL, "--jobs=0"], ["jobs"]),
        (["--cluster=slrum"], ["slrum", "slurm"]),
        ([*LOCAL, "--submit=timeout_min"], ["--submit=timeout_min", "KEY=VALUE"]),
        ([*LOCAL, "--submit=timeout_min=long"], ["timeout_min", "int", "long"]),
        (
            [*LOCAL, "--submit=slurm_partitoin=a"],
            ["partitoin", "Valid arguments", "qos"],
        ),
        ([*LOCAL, "--submit=nodes=2"], ["--submit=nodes=2", "allowed: 1"]),
    ],
)
def test_wrong_input_is_refused(sweep_file, tmp_path, capfd, flags, parts):
    code, _, err = command(capfd, sweep_file, tmp_path, *flags)

    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n"), err
    for part in parts:
        assert part in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_slurm_it_is_refused(sweep_file, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = command(capfd, sweep_file, tmp_path, "--cluster=slurm")

    assert code == 2
    assert err.startswith("error: --cluster=slurm") and "srun" in err
