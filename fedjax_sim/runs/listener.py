"""Who is told what happens in a run, while it goes on.

The loop knows no file and no terminal: it calls listeners. A listener of one's own is a
subclass that overrides what it needs; `loop.run(..., listeners=[...])` takes it.
"""

from collections.abc import Callable, Mapping
from typing import Any

PyTree = Any
Row = dict[str, Any]  # a line of rounds.jsonl or metrics.jsonl; see `runs.directory`


class Listener:
    """Told of a run's events, in the order of the methods."""

    def begins(self, facts: Mapping[str, Any], done: int) -> None:
        """The run starts, or goes on after `done` rounds.

        `facts` are those of provenance.json.
        """

    def rounds_done(self, rows: list[Row]) -> None:
        """Some rounds are complete."""

    def evaluated(self, row: Row) -> None:
        """The last of them was evaluated."""

    def state_reached(
        self, done: int, states: Callable[[], PyTree], last: bool
    ) -> None:
        """The device returned after round `done`.

        Args:
          done: rounds that are complete.
          states: gives the run's states, of a shape that `restore` takes.
          last: the run ends here, or is interrupted.
        """

    def interrupted(self, done: int) -> None:
        """The run stops before its end; the same command goes on."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is at its end."""

    def already_finished(self) -> None:
        """The run was at its end before this process came."""

    def close(self) -> None:
        """Nothing more will be told."""
