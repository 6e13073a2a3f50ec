"""Compiles a config for a device that need not be here.

    python launch/compile.py --config=FILE[:ARGUMENTS] --target=TARGET

    --target=cpu | tpu:v5e:2x2 | tpu:v6e:1x1 | tpu:v4:2x2x1 | cuda:h100 | cuda:a100
    --config.section.key=value   changes one key of the config
    --json                       prints JSON

It says whether the run fits the device's memory, in which layout, how long compiling
takes, and what a round costs there: docs/accelerators.md.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("compile", sys.argv))
