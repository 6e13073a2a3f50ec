"""Where a round's updates lie: python launch/geometry.py --run=DIR [--round=ROUND].

Computes the round again from the nearest checkpoint before it, projects the clients'
updates on a plane and writes DIR/geometry/ROUND.json; `launch/report.py --out` then
draws it. The fields: `fedjax_sim/runs/update_plane.py`.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("geometry", sys.argv))
