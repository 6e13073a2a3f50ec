"""A run as an offline run of Weights & Biases, which `wandb sync` uploads."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import to_dict
from fedjax_sim.runs.files import plain
from fedjax_sim.runs.listener import Listener, Row


class WeightsAndBiases(Listener):
    """Writes to `wandb/` in the run's folder; nothing leaves the machine.

    Each process writes a folder of its own; they have one id, so that uploaded they are
    one run.

    Args:
      workdir: of the run.
      name: of the run.
      config: of the run.

    Raises:
      InputError: wandb is not installed.
    """

    def __init__(self, workdir: Path, name: str, config: Config):
        try:
            import wandb
        except ImportError:
            raise InputError(
                "config.log.wandb = True needs: pip install 'fedjax_sim[wandb]'"
            ) from None
        place = str(workdir.absolute())
        self._run = wandb.init(
            project="fedjax_sim",
            name=name,
            id=hashlib.blake2b(place.encode(), digest_size=6).hexdigest(),
            dir=place,
            config=plain(to_dict(config)),
            mode="offline",
            # Several runs of a process are open at a time; the terminal is ours.
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def evaluated(self, row: Row) -> None:
        """Writes a point of each curve."""
        numbers = {key: value for key, value in row.items() if value is not None}
        self._run.log(numbers, step=row["round"])

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Writes the final numbers."""
        self._run.summary.update(plain(summary["final"]))

    def close(self) -> None:
        """Ends the offline run."""
        self._run.finish()
