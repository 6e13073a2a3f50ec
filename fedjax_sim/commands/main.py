"""`fedjax-sim COMMAND`: the commands of an installed package.

The files in `launch/` start the same commands from a checkout.
"""

import importlib
import signal
import sys

from fedjax_sim.core.errors import did_you_mean

COMMANDS = {
    "run": "fedjax_sim.commands.run",
    "sweep": "fedjax_sim.commands.sweep",
    "report": "fedjax_sim.commands.report",
    "worst-case": "fedjax_sim.commands.worst_case",
    "geometry": "fedjax_sim.commands.geometry",
    "bench": "fedjax_sim.benchmarks.main",
    "list": "fedjax_sim.commands.listing",
}
USAGE = f"usage: fedjax-sim {'|'.join(COMMANDS)} [--help] ..."


def main() -> int:
    """Runs the command that the process was started with; returns the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `fedjax-sim ... | head` just ends
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
    command = importlib.import_module(COMMANDS[name])
    return command.main([f"fedjax-sim {name}", *sys.argv[2:]])
