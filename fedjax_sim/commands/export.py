"""The command that writes the final model of a run to a file."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import run_command
from fedjax_sim.core.paths import local_path
from fedjax_sim.experiment.model_files import SUFFIXES, write_file

USAGE = "usage: {command} --run=DIR --out=FILE"


def make_flags() -> flags.FlagValues:
    """The flags of `launch/export.py`."""
    values = flags.FlagValues()
    flags.DEFINE_string("run", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_string(
        "out", None, f"File to write: {', '.join(SUFFIXES)}.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(
        _export, argv, make_flags(), USAGE, ["run", "out"], configurable=False
    )


def _export(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    from fedjax_sim.experiment.trained import read_run  # which imports JAX

    run, out = local_path("--run", values.run), local_path("--out", values.out)
    arrays = read_run(run)
    write_file(out, arrays)
    count = sum(array.size for array in arrays.values())
    print(f"written: {out}, {len(arrays)} arrays of {count} numbers")
    return 0
