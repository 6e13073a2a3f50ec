#!/usr/bin/env bash
# jax 0.10.2
#
# Scaling rows by their largest entry is the usual guard against overflow in norms: every
# quotient lies in [-1, 1] and one of them is 1.
#
# Expected: 1e38 / 1e38 is 1 in float32, whatever the shapes; both numbers are normal.
# Behaviour: on the CPU the compiled division by a broadcast row is a multiplication by
# the row's reciprocal; 1 / 1e38 is subnormal and flushed to zero, so every quotient is 0
# and no flag is raised. The same numbers in two arrays of one shape give 1, as in numpy.
# Above a largest entry of 2**126 (8.51e37) the guard makes a vector of zeros.
# Output seen:
#   numpy: 1.0
#   rows by rows: 1.0
#   rows by their largest: 0.0
#   entries of 8e37: 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/scale.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np


def scaled(rows):
    return rows / abs(rows).max(1)[:, None]


rows = np.full((3, 4), 1e38, np.float32)
print("numpy:", scaled(rows)[0, 0])
print("rows by rows:", (jnp.asarray(rows) / jnp.asarray(rows))[0, 0])
print("rows by their largest:", jax.jit(scaled)(rows)[0, 0])
print("entries of 8e37:", jax.jit(scaled)(np.full((3, 4), 8e37, np.float32))[0, 0])
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/scale.py" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
numpy: 1.0
rows by rows: 1.0
rows by their largest: 0.0
entries of 8e37: 1.0
SEEN
