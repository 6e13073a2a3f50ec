#!/usr/bin/env bash
# flax 0.12.7, jax 0.10.2, numpy 2.4.3 on Python 3.11, little-endian machine
#
# MNIST's IDX files hold big-endian numbers, and numpy reads them as they are
# (dtype '>i4', '>f4'). Such an array, of labels say, is kept in a checkpoint by
# flax.serialization.msgpack_serialize, as a client's state would be, and restored.
# Expected: the same values, or an error, as jax.numpy.asarray gives for such an array.
# safetensors and orbax give the same values back.
# Behaviour: the name of the type is written without its byte order and the bytes as they
# are. What comes back is another number, without a word: 1 is 16777216, 1.0 is 4.6e-41.
# Output seen:
#   given [0 1 2 3] >i4
#   restored [       0 16777216 33554432 50331648] int32
#   given [0. 1. 2. 3.] >f4
#   restored [0.0e+00 4.6e-41 9.0e-44 2.3e-41] float32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flax==0.12.7 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.3
cat > "$folder/restore.py" <<'PY'
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

np.set_printoptions(precision=1)
for kind in (">i4", ">f4"):
    given = np.frombuffer(np.arange(4).astype(kind).tobytes(), kind)
    restored = msgpack_restore(msgpack_serialize({"labels": given}))["labels"]
    print("given", given, given.dtype.str)
    print("restored", restored, restored.dtype)
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/restore.py" | tee "$folder/out"
diff "$folder/out" - <<'OUT'
given [0 1 2 3] >i4
restored [       0 16777216 33554432 50331648] int32
given [0. 1. 2. 3.] >f4
restored [0.0e+00 4.6e-41 9.0e-44 2.3e-41] float32
OUT
echo "unchanged"
