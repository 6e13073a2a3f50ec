"""Starts a run: python launch/run.py --config=FILE[:ARGUMENTS] --workdir=DIR.

    --config.section.key=value   changes one key of the config
    --coordinator=HOST:PORT --num_processes=N --process_id=I
                                 one run over the devices of N processes, each started
                                 so, on one host or many; HOST:PORT is process 0's
    --coordinator=auto           the same, where JAX knows the cluster (Slurm, MPI, TPU)
    --print_config               prints the resolved config and leaves

Exit codes: 0 finished, 2 wrong input (one line says what), 75 interrupted after a
checkpoint (the same command goes on).
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("run", sys.argv))
