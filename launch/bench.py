"""Measures this machine: python launch/bench.py [--json=FILE] [--only=PART,...].

    --only=PART,...      these of: peak, clients, waste, order, gram, round, population,
                         defenses, reconstruction, runs
    --models=NAME,...    the part `clients` for these models only
    --json=FILE          also writes the results there

With PyTorch installed (`pip install 'fedjax_sim[bench]'`), the part `clients` also runs
the same model and data as a sequential eager loop. The parts: `benchmarks/`.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("bench", sys.argv))
