"""Finds where each defence falls: the worst learning configuration and attack strength.

    python launch/worst_case.py --sweep=FILE.py --results=DIR --budget=RUNS

The sweep's points are the configurations to search (learning rate, batch size, epochs,
poisoning rate, any keys) and the defences; each defence is searched by itself, by
successive halving, and compared with its default: the sweep's base. Seeds are averaged.

    --budget=B           runs of full length for each defence; one of a third of the
                         rounds counts a third
    --mta=80             only configurations that reach this MTA in percent (lambda)
    --asr=85             from this ASR on the attack counts as consistent (tau)
    --least_rounds=R     the shortest runs; by default a ninth of a run
    --per=KEYS           what is searched one by one, by default defense,client_defense
    --out=FILE           the answer as JSON; by default DIR/worst_case.json
    --dry_run            says what would be run
    --config.section.key=value, --only, --processes: see launch/sweep.py

Runs are those of a sweep: finished ones are never run again, the same command goes on
after a kill. Exit codes: see launch/sweep.py; 75 also while another process still works
on a run.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("worst-case", sys.argv))
