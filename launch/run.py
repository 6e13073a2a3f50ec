"""Starts a run: python launch/run.py --config=FILE[:ARGUMENTS] --workdir=DIR.

    --config.section.key=value   changes one key of the config
    --print_config               prints the resolved config and leaves

Exit codes: 0 finished, 2 wrong input (one line says what), 75 interrupted after a
checkpoint (the same command goes on).
"""

import sys

from fedjax_sim.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
