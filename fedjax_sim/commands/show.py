"""The command that writes the page of one run."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import positional, run_command
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path
from fedjax_sim.pages.run_data import RUN_PAGE

USAGE = "usage: {command} RUN [--out=FILE.html]"


def make_flags() -> flags.FlagValues:
    """The flags of `fedjax-sim show`."""
    values = flags.FlagValues()
    flags.DEFINE_string("run", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string(
        "out", None, f"File to write; by default RUN/{RUN_PAGE}.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    argv = positional(argv, "run")
    return run_command(_show, argv, make_flags(), USAGE, ["run"], configurable=False)


def _show(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    from fedjax_sim.pages.run import run_page  # which imports JAX

    run = local_path("--run", values.run)
    out = run / RUN_PAGE if values.out is None else local_path("--out", values.out)
    text = run_page(run)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    except OSError as error:
        raise InputError(f"--out={out}: {error.strerror}") from None
    print(f"written: {out}")
    return 0
