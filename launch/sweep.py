"""Starts a sweep: python launch/sweep.py --sweep=FILE.py --results=DIR.

    --config.section.key=value   changes one key of the config of all runs
    --only=key=value[,value]     takes only the runs with such a config
    --processes=K                K runs at the same time, each on its share of the cores
    --cluster=slurm --jobs=K     K jobs of a Slurm cluster instead: docs/slurm.md
    --submit=key=value           a parameter of submitit for them
    --dry_run                    lists the runs and how far they are

Finished runs are skipped and interrupted ones go on, so the same command may be started
again at any time, also beside itself.

Exit codes: 0 all runs ended, 1 some failed (`error.txt` in their folders says why),
2 wrong input (one line says what), 75 interrupted (the same command goes on).
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("sweep", sys.argv))
