"""What a person sees of a running experiment."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from statistics import mean
from typing import Any

from tqdm import tqdm

_RECENT = 5  # evaluations whose pace the time left is of: rounds may grow dearer


def note(text: str) -> None:
    """Shows a line beside a bar, from inside a long computation."""
    tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """A bar on a terminal; plain lines, one per evaluated round, elsewhere.

    First the program is compiled, then rounds are trained: `compiled` tells the two
    apart, and the time left counts rounds alone.

    Args:
      name: of the run.
      rounds: of the run, of which `done` are complete.
      bar: no bar if False, even on a terminal.
    """

    def __init__(self, name: str, rounds: int, done: int, bar: bool = True):
        self._name, self._rounds = name, rounds
        self._done = done
        # (rounds, when) at the start and after the last evaluations.
        self._marks = deque([(done, time.monotonic())], maxlen=_RECENT + 1)
        self._bar = None
        if bar and sys.stderr.isatty():
            self._bar = tqdm(total=rounds, initial=done, desc=name, unit="round")
            self._bar.set_description_str(f"{name}: compiling")
        else:
            print(f"{name}: compiling", flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc) -> None:
        if self._bar is not None:
            self._bar.close()

    def compiled(self, seconds: float) -> None:
        """Notes that the rounds begin; compiling took so long."""
        self._marks.clear()
        self._marks.append((self._done, time.monotonic()))
        text = f"{self._name}: compiled in {seconds:.1f} s"
        if self._bar is None:
            print(text, flush=True)
            return
        self._bar.set_description_str(self._name)
        self._bar.unpause()  # its own clock goes on from here
        note(text)

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
        self._marks.append((done, time.monotonic()))
        if self._bar is not None:
            self._bar.set_postfix_str(rates)
            return
        (first, begun), (last, now) = self._marks[0], self._marks[-1]
        pace = (last - first) / max(now - begun, 1e-9)
        left = duration((self._rounds - done) / pace) if pace > 0 else "?"
        print(
            f"{self._name}: round {done}/{self._rounds}  {rates}  "
            f"{pace:.2f} rounds/s  {left} left",
            flush=True,
        )
