"""What all commands have in common: flags, help, and mistakes said in one line."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from fedjax_sim.core.errors import InputError, did_you_mean, disk_full
from fedjax_sim.experiment.config_files import parse_value

EXIT_INPUT = 2


class UsageError(InputError):
    """A command line that lacks something: it is shown how to write one."""


def called(program: str) -> str:
    """How the user calls a command: a file in `launch/` by Python."""
    return f"python {program}" if program.endswith(".py") else program


def run_command(
    work: Callable[[flags.FlagValues, Mapping[str, Any]], int],
    argv: Sequence[str],
    values: flags.FlagValues,
    usage: str,
    required: Sequence[str],
    configurable: bool = True,
) -> int:
    """Reads a command line and does the work; returns the exit code.

    Args:
      work: `(flags, config changes) -> exit code`; its InputError is one line too.
      argv: of the process.
      values: the command's flags; `--help` joins them.
      usage: one line on how to start the command, with `{command}` for its name.
      required: flags that must be given.
      configurable: `--config.section.key=value` is allowed.
    """
    usage = usage.format(command=called(argv[0]))
    flags.DEFINE_bool("help", False, "Show this help.", flag_values=values)
    if os.getcwd() not in sys.path:  # rules of the user's own, `MODULE:FACTORY`
        sys.path.append(os.getcwd())
    try:
        changes = parse(argv, values, usage, configurable)
        if values.help:
            print(f"{usage}\n{values.get_help()}")
            return 0
        for name in required:
            if getattr(values, name) is None:
                raise InputError(f"--{name} must be given; {usage}")
        return work(values, changes)
    except UsageError as error:
        print(f"error: {error}; {usage}", file=sys.stderr)
        return EXIT_INPUT
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except OSError as error:
        reason = disk_full(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return EXIT_INPUT


def positional(argv: Sequence[str], name: str) -> list[str]:
    """Lets the first argument stand without its flag: `COMMAND X` is `--NAME=X`."""
    if len(argv) > 1 and not argv[1].startswith("-"):
        return [argv[0], f"--{name}={argv[1]}", *argv[2:]]
    return list(argv)


@contextmanager
def written_to(key: str, target: Path) -> Iterator[None]:
    """What cannot be written within is one line that names the flag and the file.

    A full disk stays as it is: `run_command` has a line for it.

    Raises:
      InputError: for any other OSError.
    """
    try:
        yield
    except OSError as error:
        if disk_full(error) is not None:
            raise
        file = error.filename or target
        beside = "" if Path(file) == target else f"{file}: "
        reason = error.strerror or error
        raise InputError(f"{key}={target}: {beside}{reason}") from None


def parse(
    argv: Sequence[str], values: flags.FlagValues, usage: str, configurable: bool = True
) -> dict[str, Any]:
    """Reads the flags into `values`; returns what `--config.section.key` changes.

    Absl's own config flags cannot set a key that the file leaves at its default, nor
    name the nearest valid key, so the changes are read here and typed by the schema.

    Raises:
      InputError: an unknown flag, or a value that is missing or ill-typed.
    """
    changes, others = _split_changes(argv) if configurable else ({}, list(argv))
    try:
        rest = values(others)
    except flags.UnrecognizedFlagError as error:
        valid = [*values, "config.section.key"] if configurable else values
        hint = did_you_mean(error.flagname, valid)
        raise InputError(f"--{error.flagname} is not a flag; {hint}") from None
    except flags.Error as error:
        raise InputError(str(error).splitlines()[0]) from None
    if len(rest) > 1:
        raise InputError(f"{rest[1]} is not a flag; {usage}")
    _check_finite(values)
    return changes


def _check_finite(values: flags.FlagValues) -> None:
    """Raises InputError for NaN or Inf; NaN is never outside of absl's bounds."""
    for name in values:
        flag = values[name]
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            allowed = flag.parser.syntactic_help or "a number"
            raise InputError(f"--{name}={flag.value}: must be {allowed}, and finite")


def _split_changes(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns what `--config.section.key` changes, and the other arguments."""
    prefix = "--config."
    changes, others = {}, []
    arguments = iter(argv)
    for argument in arguments:
        argument = "-" + argument if argument.startswith("-config.") else argument
        if not argument.startswith(prefix):
            others.append(argument)
            continue
        key, equals, value = argument[len(prefix) :].partition("=")
        if not equals:
            value = next(arguments, "--")
            if value.startswith("--"):
                raise InputError(f"--config.{key}: a value is missing")
        changes[key] = parse_value(value)
    return changes, others
