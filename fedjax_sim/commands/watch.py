"""The command that shows runs in a browser while they go on."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import positional, run_command
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.paths import local_path

USAGE = "usage: {command} RESULTS [--port=8400]"


def make_flags() -> flags.FlagValues:
    """The flags of `fedjax-sim watch`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "results", None, "Folder of the run directories.", flag_values=values
    )
    flags.DEFINE_integer(
        "port", 8400, "To listen at; 0: a free one.", 0, 65535, flag_values=values
    )
    flags.DEFINE_string(
        "address",
        "127.0.0.1",
        "To listen at. Who reaches another one reads the runs: no password is asked.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    argv = positional(argv, "results")
    return run_command(_watch, argv, make_flags(), USAGE, ["results"], False)


def _watch(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    from fedjax_sim.pages.live import server  # which imports JAX

    results = local_path("--results", values.results)
    if not results.is_dir():
        raise InputError(f"--results={results}: there is no such folder")
    with server(results, values.address, values.port) as serving:
        port = serving.server_address[1]
        print(
            f"http://{values.address}:{port}/ shows {results}; Ctrl-C ends it",
            flush=True,
        )
        # A reader who goes away while a page is sent ends nothing.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            serving.serve_forever()
    return 0
