"""Writes the final model of a run: python launch/export.py --run=DIR --out=FILE.

FILE ends with .npz, .safetensors or .pt (a state dict); a run begins with it by
`--config.model.init=FILE`. The names of the arrays: `fedjax_sim/experiment/
model_files.py`.
"""

import sys

from fedjax_sim.commands.main import start

if __name__ == "__main__":
    sys.exit(start("export", sys.argv))
