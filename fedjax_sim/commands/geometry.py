"""The command that computes a round again and writes where its updates lie."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import run_command
from fedjax_sim.commands.text_table import text_table
from fedjax_sim.core.paths import local_path
from fedjax_sim.runs.files import write_json
from fedjax_sim.runs.replay import replay
from fedjax_sim.runs.update_plane import project

USAGE = "usage: {command} --run=DIR [--round=ROUND]"


def make_flags() -> flags.FlagValues:
    """The flags of `launch/geometry.py`."""
    values = flags.FlagValues()
    flags.DEFINE_string("run", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_integer(
        "round", None, "From 1; by default the last one.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(_project, argv, make_flags(), USAGE, ["run"], configurable=False)


def _project(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    workdir = local_path("--run", values.run)
    found = project(replay(workdir, values.round))
    path = workdir / "geometry" / f"{found['round']}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)
    print(text_table(list(found["points"][0]), found["points"]))
    shares = " and ".join(f"{100 * share:.0f} %" for share in found["explained"])
    print(f"round {found['round']}: {shares} of the variance; written: {path}")
    return 0
