"""Installed from a wheel, without a checkout: what a user gets from pip."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as pip installs it; its dependencies are ours."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"  # a copy: building leaves files behind
    for name in ("fedjax_sim", "configs", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={root}"]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = root.glob("*.whl")
    target = root / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", f"--target={target}", wheel], check=True
    )
    return target


@pytest.fixture
def command(installed, tmp_path):
    """Runs `fedjax-sim` of the installed package in an empty folder."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, str(installed / "bin" / "fedjax-sim"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )

    return run


def test_it_is_the_installed_package(installed, tmp_path):
    code = "import fedjax_sim, fedjax_sim.configs as c; print(fedjax_sim.__file__, c)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(str(installed)) == 2


@pytest.mark.slow
def test_a_run_and_its_report(command, tmp_path):
    done = command("run", "--config=quickstart", "--workdir=runs", "--config.rounds=2")
    assert done.returncode == 0, done.stderr
    assert "droplet" in done.stdout and "fedavg" in done.stdout
    summary = json.loads((tmp_path / "runs" / "droplet" / "summary.json").read_text())
    assert summary["rounds"] == 2
    done = command("report", "--results=runs", "--sql=SELECT count(*) AS n FROM runs")
    assert done.returncode == 0 and "2" in done.stdout, done.stderr


def test_configs_and_layouts_are_there(command):
    done = command("run", "--config=drop/emnist:defense=flame", "--print_config")
    assert json.loads(done.stdout)["defense"]["name"] == "flame", done.stderr
    done = command("report", "--results=none", "--layout=drop_tabel3")
    assert done.returncode == 2 and "drop_table3" in done.stderr
    done = command("list", "--section=defenses", "--name=krum")
    assert "Blanchard" in done.stdout
    assert command("bench", "--only=nothing").returncode == 2
