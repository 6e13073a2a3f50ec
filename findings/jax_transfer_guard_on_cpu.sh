#!/usr/bin/env bash
# jax 0.10.2, CPU backend
#
# jax.transfer_guard("disallow") is meant to make hidden copies between host and device an
# error; a test suite on a CPU uses it to guard a loop that must stay on the device.
#
# Expected: under "disallow" an implicit copy is refused in both directions: numpy array
# into a jitted function, and np.asarray(...) or float(...) of a result.
# Behaviour: on the CPU only the way in is refused. np.asarray, float() and a
# jax.pure_callback inside of the jitted function pass, so a test on a CPU cannot see that
# a program waits for the host in every step.
# Output seen:
#   numpy into jit: refused
#   np.asarray of a result: passed
#   float of a result: passed
#   pure_callback inside jit: passed
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/guard.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

double = jax.jit(lambda x: 2 * x)
shape = jax.ShapeDtypeStruct((), jnp.float32)
called = jax.jit(lambda x: jax.pure_callback(lambda y: np.float32(y), shape, x))
x = jax.device_put(np.float32(1))
jax.block_until_ready((double(x), called(x)))


def tried(what, function):
    try:
        with jax.transfer_guard("disallow"):
            jax.block_until_ready(function())
        print(f"{what}: passed")
    except Exception:
        print(f"{what}: refused")


tried("numpy into jit", lambda: double(np.ones(3, np.float32)))
tried("np.asarray of a result", lambda: np.asarray(double(x)))
tried("float of a result", lambda: float(double(x)))
tried("pure_callback inside jit", lambda: called(x))
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/guard.py" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
numpy into jit: refused
np.asarray of a result: passed
float of a result: passed
pure_callback inside jit: passed
SEEN
