#!/usr/bin/env bash
# jax 0.12.0.1, libtpu 0.0.50.1 on Python 3.13; no TPU is needed: compiled for v5e
#
# A server brings the updates of ten clients, f32[10, parameters], into another order:
# `updates[order]`; or it writes them into places, `updates.at[order].set(others)`.
# Expected: ten copies of rows either way, a program of the same size for any number of
# parameters, and as much memory as is read and written.
# Behaviour: the scatter is that. The gather is cut into windows of 2^14 columns that are
# unrolled: its program grows with the parameters, to 8400 lines and 12 s of compiling for
# a ResNet-18 of 11 million, and above 2^23 columns it asks for more than another copy of
# the updates as temporary memory. A loop that slices row by row gives the same values
# with neither.
# Output seen (parameters, lines of the compiled program and MiB of temporary memory of
# each):
#   1000000: gather 804, 0; scatter 116, 0; loop 78, 0
#   8000000: gather 6010, 0; scatter 113, 0; loop 78, 0
#   9000000: gather 6745, 513; scatter 113, 0; loop 78, 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.12.0.1 jaxlib==0.12.0.1 libtpu==0.0.50.1
cat > "$folder/rows.py" <<'PY'
import os

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

chip = SingleDeviceSharding(topologies.get_topology_desc("v5e:1x1", "tpu").devices[0])


def described(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=chip)


def row(updates, i):
    return jax.lax.dynamic_index_in_dim(updates, i, keepdims=False)


WAYS = {
    "gather": lambda x, order: x[order],
    "scatter": lambda x, order, others: x.at[order].set(others),
    "loop": lambda x, order: jax.lax.map(lambda i: row(x, i), order),
}
order = described((10,), jnp.int32)
for size in (1_000_000, 8_000_000, 9_000_000):
    updates, found = described((10, size)), []
    for name, way in WAYS.items():
        more = [updates] if name == "scatter" else []
        compiled = jax.jit(way).lower(updates, order, *more).compile()
        lines = len(compiled.as_text().splitlines())
        mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
        found.append(f"{name} {lines}, {mib:.0f}")
    print(f"{size}: {'; '.join(found)}")
PY
"$folder/venv/bin/python" "$folder/rows.py" 2> "$folder/log" | tee "$folder/out" ||
    { cat "$folder/log"; exit 1; }
diff "$folder/out" - <<'OUT'
1000000: gather 804, 0; scatter 116, 0; loop 78, 0
8000000: gather 6010, 0; scatter 113, 0; loop 78, 0
9000000: gather 6745, 513; scatter 113, 0; loop 78, 0
OUT
echo "unchanged"
