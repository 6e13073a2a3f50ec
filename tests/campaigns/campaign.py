"""What the campaigns share: trials drawn from a seed, counted, and repeatable."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import conftest  # noqa: E402, F401 - programs are compiled as those of the tests are


def carry_out(
    name: str,
    trial: Callable[[int, np.random.Generator], None],
    argv: Sequence[str],
    *,
    trials: int,
    minutes: float,
) -> int:
    """Runs trials until there were enough or time is up; returns the exit code.

    Args:
      name: of the campaign.
      trial: (number, draws) -> None; whatever it raises is a failure.
      argv: command line without the program.
      trials, minutes: at most, unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--trials", type=int, default=trials)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--only", type=int, help="this trial and no other")
    given = parser.parse_args(argv)
    print(f"{name}: seed {given.seed}", flush=True)
    begun = time.monotonic()
    numbers = range(given.trials) if given.only is None else [given.only]
    done = failures = 0
    for number in numbers:
        if time.monotonic() - begun > 60 * given.minutes:
            break
        done += 1
        try:
            trial(number, np.random.default_rng([given.seed, number]))
        except Exception:
            failures += 1
            print(
                f"{name}: trial {number} failed\n{traceback.format_exc()}", flush=True
            )
    took = time.monotonic() - begun
    print(
        f"{name}: seed {given.seed}, {done} trials, {failures} failures, {took:.0f} s",
        flush=True,
    )
    return 1 if failures or not done else 0


def require(holds: object, broken: str) -> None:
    """Fails the trial unless something holds."""
    if not holds:
        raise AssertionError(broken)
