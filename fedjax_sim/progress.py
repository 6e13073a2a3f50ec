"""What a person sees of a running experiment."""

import sys
import time
from typing import Any

from tqdm import tqdm


def note(text: str) -> None:
    """Shows a line beside a bar, from inside a long computation."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """A bar on a terminal; plain lines, one per evaluated round, elsewhere."""

    def __init__(self, name: str, rounds: int, done: int):
        self._name, self._rounds = name, rounds
        self._done = self._first = done
        self._started = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
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

    def show(self, row: dict[str, Any]) -> None:
        """Shows the main numbers of a metrics row."""
        asr = row.get("asr")
        rates = f"MTA {row['mta']:.2f}" + ("" if asr is None else f" ASR {asr:.2f}")
        if self._bar is not None:
            self._bar.set_postfix_str(rates)
            return
        pace = (row["round"] - self._first) / (time.monotonic() - self._started)
        left = (self._rounds - row["round"]) / pace
        print(
            f"{self._name}: round {row['round']}/{self._rounds}  {rates}  "
            f"{pace:.2f} rounds/s  {left:.0f} s left",
            flush=True,
        )
