"""The flags of the benchmark; what it measures, nobody can expect."""

import subprocess
import sys

import pytest
from helpers import ROOT

from benchmarks import main as bench


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--only=grom", "--only=grom must be one of: peak, clients"),
        ("--models=cnnx", "--models=cnnx must be one of: cnn, convnet"),
        ("--json=/nowhere/x.json", "--json=/nowhere/x.json: No such file"),
        ("--jsn=x.json", "did you mean 'json'"),
        ("--only", "Missing value for flag --only"),
        ("gram", "gram is not a flag"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(flag, part, capsys):
    assert bench.main(["bench.py", flag]) == 2

    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and part in err


def test_chosen_parts_run_and_their_results_are_kept(monkeypatch, tmp_path, capsys):
    parts = {name: lambda name=name: {"of": name} for name in bench.PARTS}
    monkeypatch.setattr(bench, "PARTS", parts)
    monkeypatch.setattr(bench, "bench_clients", lambda models: {"models": models})
    monkeypatch.setattr(bench, "matmul_peak", lambda: 3e9)
    flags = ["--only=gram,clients", "--models=cnn", f"--json={tmp_path / 'a.json'}"]

    assert bench.main(["bench.py", *flags]) == 0

    assert "matmul peak 3 GFLOP/s" in capsys.readouterr().out
    text = (tmp_path / "a.json").read_text()
    assert '"of": "gram"' in text and '"cnn"' in text and "waste" not in text


@pytest.mark.slow
def test_it_starts_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "bench.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0
    assert "bench.py [--json=FILE]" in done.stdout
