#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (jax 0.10.2, numpy 2.4.6)
#
# A checkpoint of an array of 3 float32 is restored with a target of 4: a NumPy array of
# float64, and a jax.ShapeDtypeStruct of float32.
#
# Expected: an error that names the leaf, for the target says what the program can use;
# with the struct at the least, which is nothing but shape and type.
# Behaviour: no error in either case. The array comes back with the stored shape, 3, while
# the type asked for is honoured by a cast. So a program that restores must compare shapes
# itself.
# Output seen:
#   numpy target: (3,) float64
#   struct target: (3,) float32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 orbax-checkpoint==0.12.8 numpy==2.4.6
cat > "$folder/restore.py" <<'PY'
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

logging.set_verbosity(logging.FATAL)
manager = ocp.CheckpointManager(sys.argv[1])
manager.save(1, args=ocp.args.StandardSave({"a": np.zeros(3, np.float32)}))
manager.wait_until_finished()


def restored(target):
    try:
        found = manager.restore(1, args=ocp.args.StandardRestore({"a": target}))["a"]
        return f"{found.shape} {found.dtype}"
    except Exception as error:
        return type(error).__name__


print("numpy target:", restored(np.zeros(4, np.float64)))
print("struct target:", restored(jax.ShapeDtypeStruct((4,), np.float32)))
PY
"$folder/venv/bin/python" "$folder/restore.py" "$folder/checkpoints" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
numpy target: (3,) float64
struct target: (3,) float32
SEEN
