"""Runs in the stores of other programs, with their real packages, into a folder."""

import json

import pytest
from helpers import BASE

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs.run import recorders

ROWS = [
    {"round": 2, "mta": 50.0, "asr": None, "diverged": False},
    {"round": 4, "mta": 75.0, "asr": 12.5, "diverged": False},
]
SUMMARY = {"final": {"mta": 75.0, "asr": 12.5}}


def told(tmp_path, key, rows=ROWS, summary=SUMMARY):
    """A listener that was told of some rows, and of the end if there is a summary."""
    config = resolve(override(BASE, {f"log.{key}": True}))
    (listener,) = recorders(config, tmp_path, "a run")
    for row in rows:
        listener.evaluated(row)
    if summary is not None:
        listener.finished(summary)
    listener.close()


def test_mlflow_has_the_config_and_the_curves_of_a_run_that_goes_on(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs mlflow-skinny")
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy and alembic")
    told(tmp_path, "mlflow", ROWS[:1], None)
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'fedjax_sim'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"

    told(tmp_path, "mlflow", ROWS[1:])
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"
    assert run.data.params["defense.name"] == resolve(BASE).defense.name
    points = client.get_metric_history(run.info.run_id, "mta")
    assert [(point.step, point.value) for point in points] == [(2, 50.0), (4, 75.0)]
    assert len(client.get_metric_history(run.info.run_id, "asr")) == 1


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    told(tmp_path, "wandb")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    content = log.read_bytes()
    assert b"mta" in content and b"75" in content
    summary = folder / "files" / "wandb-summary.json"
    if summary.exists():  # not in every version
        assert json.loads(summary.read_text())["mta"] == 75.0


@pytest.mark.parametrize("key", ["mlflow", "wandb"])
def test_a_package_that_is_not_there_is_one_line(key, tmp_path, monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == key]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, key, None)
    with pytest.raises(InputError, match=rf"config\.log\.{key} = True needs: pip"):
        told(tmp_path, key)
