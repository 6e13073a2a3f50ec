"""A run in an MLflow store: its config as parameters, its numbers as metrics."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import flatten, to_dict
from fedjax_sim.runs.listener import Listener, Row

STORE = "mlflow.db"  # in the run's folder
_EXPERIMENT = "fedjax_sim"


class MLflow(Listener):
    """Writes to `mlflow.db` in the run's folder; no server is asked.

    `mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db` shows it.

    A run that goes on does so in the MLflow run that it began.

    Args:
      workdir: of the run.
      name: of the run.
      config: of the run.

    Raises:
      InputError: MLflow is not installed.
    """

    def __init__(self, workdir: Path, name: str, config: Config):
        try:
            import sqlalchemy as sqlalchemy  # MLflow asks for it late
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise InputError(
                "config.log.mlflow = True needs: pip install 'fedjax_sim[mlflow]'"
            ) from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        place = workdir.absolute()
        # A database: MLflow 3 takes a folder of files no more.
        self._client = MlflowClient(tracking_uri=f"sqlite:///{place / STORE}")
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        if known is None:
            where = (place / "mlflow").as_uri()
            experiment = self._client.create_experiment(_EXPERIMENT, where)
        else:
            experiment = known.experiment_id
        begun = self._client.search_runs([experiment])
        if begun:
            self._run = begun[0].info.run_id
        else:
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
            for key, value in flatten(to_dict(config)).items():
                self._client.log_param(self._run, key, value)
        self._ended = False

    def evaluated(self, row: Row) -> None:
        """Writes a point of each curve."""
        for key, value in row.items():
            if key != "round" and value is not None:
                self._client.log_metric(self._run, key, float(value), step=row["round"])

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)
        self._ended = True

    def close(self) -> None:
        """Marks a run that stopped before its end."""
        if not self._ended:
            self._client.set_terminated(self._run, status="KILLED")
