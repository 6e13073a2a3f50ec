"""What a person sees of a running experiment."""

import sys
import time
from collections.abc import Sequence
from statistics import mean
from typing import Any

from tqdm import tqdm


def note(text: str) -> None:
    """Shows a line beside a bar, from inside a long computation."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """A bar on a terminal; plain lines, one per evaluated round, elsewhere.

    Args:
      name: of the run.
      rounds: of the run, of which `done` are complete.
      bar: no bar if False, even on a terminal.
    """

    def __init__(self, name: str, rounds: int, done: int, bar: bool = True):
        self._name, self._rounds = name, rounds
        self._done = self._first = done
        self._started = time.monotonic()
        self._bar = None
        if bar and sys.stderr.isatty():
            self._bar = tqdm(total=rounds, initial=done, desc=name, unit="round")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, done: int) -> None:
        """Notes that `done` rounds are complete."""
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done

    def show(self, done: int, rows: Sequence[dict[str, Any]]) -> None:
        """Shows the main numbers of a metrics row, or the means of several runs."""
        rates = "  ".join(
            f"{name.upper()} {mean(values):.2f}"
            for name in ("mta", "asr")
            if (values := [row[name] for row in rows if row.get(name) is not None])
        )
        if self._bar is not None:
            self._bar.set_postfix_str(rates)
            return
        pace = (done - self._first) / (time.monotonic() - self._started)
        left = (self._rounds - done) / pace
        print(
            f"{self._name}: round {done}/{self._rounds}  {rates}  "
            f"{pace:.2f} rounds/s  {left:.0f} s left",
            flush=True,
        )
