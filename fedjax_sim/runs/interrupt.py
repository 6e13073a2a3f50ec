"""SIGTERM and Ctrl-C, noted until the loop can stop."""

import signal
from types import FrameType
from typing import Any


class Interrupt:
    """Remembers SIGTERM and SIGINT until the loop can stop; a second acts at once."""

    def __enter__(self) -> "Interrupt":
        self.requested = False
        self._old: dict[signal.Signals, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested:  # the user cannot wait for the compiler
            self.__exit__()
            signal.raise_signal(number)
        self.requested = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
