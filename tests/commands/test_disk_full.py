"""A full disk: one line, exit code 2, and the same command goes on."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import BASE, write_config

from fedjax_sim.commands import run as cli
from fedjax_sim.core import checkpoint
from fedjax_sim.core.errors import disk_full
from fedjax_sim.runs import files

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(*arguments, **options):
    raise FULL


@pytest.mark.parametrize(
    ("module", "name"), [(files, "write_json"), (files.os, "fsync")]
)
def test_it_is_said_and_the_run_goes_on(tmp_path, capsys, monkeypatch, module, name):
    config = write_config(tmp_path)
    command = ["run.py", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        if name == "write_json":
            patch.setattr("fedjax_sim.runs.directory.write_json", fail)
        code = cli.main(command)
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "No space left on device; nothing that was complete is lost" in err

    assert cli.main([*command, f"--config.rounds={BASE['rounds']}"]) == 0


def test_a_checkpoint_that_does_not_fit(tmp_path, monkeypatch):
    """The library below orbax says it in a ValueError."""
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")

    def refuse(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", refuse)
    with pytest.raises(OSError) as caught:
        checkpoints.save(1, {"a": np.zeros(3)})
    assert disk_full(caught.value)
    checkpoints.close()


def test_other_errors_are_none_of_its_business():
    assert disk_full(OSError(errno.EACCES, "Permission denied")) is None
    assert disk_full(ValueError("No space left on device")) is None


def test_a_checkpoint_that_would_not_fit_is_not_begun(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    few = SimpleNamespace(free=100_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: few)
    with pytest.raises(OSError) as caught:
        checkpoints.save(1, {"a": np.zeros(3)})
    assert disk_full(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())
    checkpoints.close()
