"""Mistakes in rules, models and data that a config names by MODULE:FACTORY."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import TABLES


def chosen_outside(config: Config) -> dict[str, str]:
    """Returns what a config takes from elsewhere, {section: MODULE:FACTORY}."""
    found = {}
    for section, table in TABLES.items():
        source = table.outside(getattr(config, section).name)
        if source is not None and not source.startswith("tfds:"):
            found[section] = source
    return found


@contextmanager
def blamed(config: Config) -> Iterator[None]:
    """Says in one line what a user's own code raises, and where.

    Without such code in the config, no other exception is caught: the mistake is ours.
    Where a round refuses what a side gave it, the message is told the side's name.

    Args:
      config: of the run that is built.

    Raises:
      InputError: from any other exception of the block.
    """
    try:
        yield
    except InputError as error:
        section, colon, problem = str(error).partition(".name: ")
        section = section.removeprefix("config.")
        if not colon or section not in TABLES:
            raise
        name = getattr(config, section).name
        raise InputError(f"config.{section}.name = {name!r}: {problem}") from error
    except Exception as error:  # whatever the user's code does
        outside = chosen_outside(config)
        if not outside:
            raise
        raise InputError(_blame(error, outside)) from error


def _blame(error: Exception, outside: dict[str, str]) -> str:
    """One line: the innermost frame of the user's files, and the error."""
    first = (str(error).strip() or "no message").splitlines()[0]
    what = f"{type(error).__name__}: {first}"
    files = {}
    for section, name in outside.items():
        module = sys.modules.get(name.partition(":")[0])
        files[getattr(module, "__file__", None)] = section
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            section = files[frame.filename]
            place = f"{Path(frame.filename).name}, line {frame.lineno}"
            return f"config.{section}.name = {outside[section]!r}: {place}: {what}"
    names = ", ".join(f"config.{key}.name = {name!r}" for key, name in outside.items())
    return f"{names}: what is made there does not fit the contract: {what}"
