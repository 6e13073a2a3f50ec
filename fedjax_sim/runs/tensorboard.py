"""The numbers of metrics.jsonl as TensorBoard's event files."""

from pathlib import Path

from fedjax_sim.core.errors import InputError
from fedjax_sim.runs.listener import Listener, Row


class TensorBoard(Listener):
    """Writes every number of a metrics row.

    Raises:
      InputError: tensorboardX is not installed.
    """

    def __init__(self, workdir: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "config.log.tensorboard = True needs: pip install "
                "'fedjax_sim[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(workdir / "tensorboard"))

    def evaluated(self, row: Row) -> None:
        """Writes a point of each curve."""
        for key, value in row.items():
            if key != "round" and value is not None:
                self._writer.add_scalar(key, float(value), row["round"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()
