"""Sweeps as a user starts them: skipped, joined, killed, failing and resumed runs."""

import os
import signal
from pathlib import Path

import pytest
from helpers import BASE, rows
from sweep_helpers import (
    LONG,
    assert_same_results,
    command,
    recorded,
    start,
    wait_until,
)

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.commands import sweep as cli
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.runs.files import Lock
from fedjax_sim.sweeps import executors


@pytest.mark.slow
def test_terminated_pool_goes_on(sweep_file, finished, tmp_path, capfd):
    """Two processes, stopped in the middle; then one process does the rest."""
    process = start(sweep_file, tmp_path, *LONG, "--processes=2")
    wait_until(process, lambda: recorded(tmp_path) >= 3)
    process.terminate()
    out, err = process.communicate(timeout=300)

    assert (process.returncode, err) == (75, "")
    assert "stopped; the same command goes on" in out
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    states = [executors.status(path) for path in folders]
    assert "running" not in states and "failed" not in states
    for path in folders:
        if executors.status(path) == "interrupted" and rows(path / "rounds.jsonl"):
            done = len(rows(path / "rounds.jsonl"))
            assert (path / "checkpoints" / str(done)).is_dir()

    code, _, err = command(capfd, sweep_file, tmp_path, *LONG)
    assert (code, err) == (0, "")
    assert_same_results(tmp_path, finished)


def children(pid):
    """Process ids of the workers of a pool."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(number)
        for number in found
        if "spawn_main" in Path(f"/proc/{number}/cmdline").read_text()
    ]


@pytest.mark.slow
def test_a_killed_worker_fails_its_run_only(sweep_file, finished, tmp_path, capfd):
    """As the out-of-memory killer would. The next start tries the run again."""
    process = start(sweep_file, tmp_path, *LONG, "--processes=2")
    wait_until(process, lambda: recorded(tmp_path) >= 3)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=300)

    assert process.returncode == 1
    assert "1 finished, 1 failed" in out
    (error,) = tmp_path.glob("*/error.txt")
    assert "SIGKILL" in error.read_text()
    assert str(error) in out

    code, out, _ = command(capfd, sweep_file, tmp_path, *LONG)
    assert code == 0 and "[1/1] finished" in out
    assert not error.exists()
    assert_same_results(tmp_path, finished)


@pytest.mark.slow
def test_two_starts_share_the_work(sweep_file, finished, tmp_path, capfd):
    """Also when one of them is killed without a word."""
    first, second = (start(sweep_file, tmp_path, *LONG) for _ in range(2))
    wait_until(first, lambda: recorded(tmp_path) >= 2)
    first.kill()
    first.communicate()
    _, _ = second.communicate(timeout=300)
    assert second.returncode == 0

    code, _, err = command(capfd, sweep_file, tmp_path, *LONG)
    assert (code, err) == (0, "")
    assert_same_results(tmp_path, finished)


def test_finished_runs_are_left_alone(sweep_file, finished, capfd):
    files = sorted(p for p in finished.rglob("*") if p.is_file() and p.name != "lock")
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]

    code, out, err = command(capfd, sweep_file, finished, *LONG, "--processes=2")

    assert (code, err) == (0, "")
    assert out.count("seed=1") == 1  # in the table
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in files] == before

    # One that is damaged meanwhile is named; the others have their table.
    damaged = next(path for path in files if path.name == "summary.json")
    whole = damaged.read_bytes()
    damaged.write_text("{")
    code, out, err = command(capfd, sweep_file, finished, *LONG)
    damaged.write_bytes(whole)
    assert (code, err) == (1, "")
    assert "unreadable: seed=" in out and str(damaged) in out
    assert out.count("\nseed=") == 1  # in the table


def test_failing_run_does_not_stop_the_others(sweep_file, tmp_path, capfd, monkeypatch):
    def broken():
        def craft(state, view):
            raise RuntimeError("no such luck\nat all")

        return Attack(craft=craft, knowledge=("own_data",))

    monkeypatch.setitem(ATTACKS, "broken", Entry(broken, "-"))
    path = tmp_path / "sweep.py"
    path.write_text(
        f"from fedjax_sim.sweeps import Sweep\nBASE = {BASE!r}\n"
        "def get_sweep():\n"
        "    points = [{'attack.name': 'broken'}, {'attack.name': 'backdoor'}]\n"
        "    return Sweep(BASE, points)\n"
    )
    code, out, err = command(capfd, path, tmp_path / "results")

    assert (code, err) == (1, "")
    assert "RuntimeError: no such luck" in out
    assert "2 runs in" in out and "1 finished, 1 failed" in out
    (error,) = (tmp_path / "results").glob("*/error.txt")
    assert error.read_text().startswith("RuntimeError: no such luck\n\nTraceback")


def test_locked_runs_are_left_to_their_process(sweep_file, tmp_path, capfd):
    _, out, _ = command(capfd, sweep_file, tmp_path, "--dry_run")
    folder = tmp_path / out.split()[1]
    folder.mkdir()
    lock = Lock(folder)
    try:
        code, out, err = command(capfd, sweep_file, tmp_path)
        _, listing, _ = command(capfd, sweep_file, tmp_path, "--dry_run")
    finally:
        lock.release()

    assert (code, err) == (0, "")
    assert "running: seed=0: left to" in out
    assert "2 runs in" in out and "1 finished, 1 running" in out
    assert [line.split()[0] for line in listing.splitlines()[:-2]] == [
        "running",
        "finished",
    ]
    assert "to compile: 1 programs" in listing
    needs = [float(line.split()[2]) for line in listing.splitlines()[:-2]]
    assert f"about {max(needs):.2f} GiB" in listing


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config.defense.penalti=1"], ["config.defense.penalti"]),
        (["--config.client.lr"], ["config.client.lr", "missing"]),
        (["--config.client.lr", "fast"], ["config.client.lr", "fast"]),
        (["--proceses=2"], ["proceses"]),
        (["--processes=0"], ["processes"]),
        (["--processes=many"], ["processes"]),
        (["extra"], ["extra is not a flag"]),
        # Found when the runs are built, before the first one starts.
        (["--config.data.num_train=5000"], ["data.num_train = 5000", "1437"]),
        (
            ["--config.data.num_train=5000", "--processes=2"],
            ["data.num_train = 5000", "1437"],
        ),
    ],
)
def test_wrong_input_is_refused(sweep_file, tmp_path, capfd, flags, parts):
    code, _, err = command(capfd, sweep_file, tmp_path / "results", *flags)

    assert code == 2
    assert err.count("\n") == 1 and err.endswith("\n"), err
    for part in parts:
        assert part in err
    assert not list(tmp_path.glob("results/*"))


def test_a_sweep_is_listed_without_a_folder(sweep_file, capfd):
    assert cli.main(["sweep.py", f"--sweep={sweep_file}", "--dry_run"]) == 0
    *lines, total, _ = capfd.readouterr().out.splitlines()
    assert total.startswith(f"{len(lines)} runs; to compile: ")
    assert all(line.startswith("waiting ") for line in lines)


@pytest.mark.parametrize("flag", ["sweep", "results"])
def test_missing_flags_are_named(sweep_file, capfd, flag):
    given = {"sweep": sweep_file, "results": "x"}
    del given[flag]
    code = cli.main(["sweep.py", *(f"--{k}={v}" for k, v in given.items())])

    assert code == 2
    names = {"sweep": "--sweep or --layout"}
    assert f"{names.get(flag, '--' + flag)} must be given" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("visible", "processes", "wanted"),
    [
        ("4,7", 2, [("4", "0.900"), ("7", "0.900")]),
        ("4,7", 3, [("4", "0.450"), ("7", "0.450"), ("4", "0.450")]),
        (None, 2, [("0", "0.900"), ("1", "0.900")]),
    ],
)
def test_each_process_has_its_gpu(visible, processes, wanted, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for name in ("first", "second", "third"):
        (tmp_path / name).touch()

    shares = [
        executors.share_of_gpus(place, processes, tmp_path)
        for place in range(processes)
    ]

    assert [tuple(share.values()) for share in shares] == wanted


def test_without_a_gpu_nothing_is_shared(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert executors.share_of_gpus(0, 2, tmp_path) == {}
