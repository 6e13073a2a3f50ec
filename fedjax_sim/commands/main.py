"""`fedjax-sim COMMAND`: the commands of an installed package.

The files in `launch/` start the same commands from a checkout.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from fedjax_sim.core.errors import did_you_mean

COMMANDS = {
    "run": "fedjax_sim.commands.run",
    "sweep": "fedjax_sim.commands.sweep",
    "report": "fedjax_sim.commands.report",
    "show": "fedjax_sim.commands.show",
    "watch": "fedjax_sim.commands.watch",
    "worst-case": "fedjax_sim.commands.worst_case",
    "geometry": "fedjax_sim.commands.geometry",
    "export": "fedjax_sim.commands.export",
    "compile": "fedjax_sim.commands.compile",
    "bench": "fedjax_sim.benchmarks.main",
    "list": "fedjax_sim.commands.listing",
}
# What each is for; `fedjax-sim COMMAND --help` says how.
PURPOSES = {
    "run": "a federated run, or several of one config file",
    "sweep": "many runs: of a file, of a paper's table (--layout), of the matrix",
    "report": "tables, figures and a page of finished runs",
    "show": "a page of one run",
    "watch": "the runs of a folder while they go on, in a browser",
    "worst-case": "the attack's settings that harm a defence most",
    "geometry": "a round's updates in the plane, from a checkpoint",
    "export": "the model of a run as npz, safetensors or pt",
    "compile": "what a run needs on a device that is not here",
    "bench": "how fast this machine is at the parts of a run",
    "list": "the names of a section, with papers and options",
}
USAGE = "\n".join(
    [
        "usage: fedjax-sim COMMAND [--help] ...",
        *(f"  {name:<11}{text}" for name, text in PURPOSES.items()),
    ]
)


EXIT_STOPPED = 75  # as of a run that wrote a checkpoint: the same command goes on


def start(name: str, argv: Sequence[str]) -> int:
    """Runs a command; returns its exit code.

    Until a run's loop takes the signals for itself, Ctrl-C and SIGTERM end the process
    at once and in one line: nothing was computed that could be lost.

    Args:
      name: a key of `COMMANDS`.
      argv: of the process.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` just ends
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # Behind the handlers: this takes seconds.
    return importlib.import_module(COMMANDS[name]).main(argv)


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"stopped; the same command goes on\n")
    os._exit(EXIT_STOPPED)  # no exception: some libraries swallow it


def main() -> int:
    """Runs the command that the process was started with; returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        return 0 if len(sys.argv) > 1 else 2
    name = sys.argv[1]
    if name not in COMMANDS:
        print(
            f"error: {name} is no command; {did_you_mean(name, COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    return start(name, [f"fedjax-sim {name}", *sys.argv[2:]])
