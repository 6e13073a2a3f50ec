#!/usr/bin/env bash
# jax 0.12.0.1, libtpu 0.0.50.1 on Python 3.13; no TPU is needed: compiled for v5e
#
# A federated round stacks the updates of its clients in one array f32[clients, parameters]
# and returns it. Here a loop over the clients makes such a stack of a million columns.
# Expected: 4 bytes a number; a stack of ten takes 10/8 of a stack of eight.
# Behaviour: the compiler lays the last two axes out in tiles of 8 x 128, also where one of
# them is a handful of clients: nine or ten clients take the memory of sixteen, seventeen
# that of twenty-four. Nothing says so but the sizes of the compiled program.
# Output seen (clients, bytes of the result over 4 bytes a number):
#   1 1.0
#   8 1.0
#   9 1.78
#   10 1.6
#   16 1.0
#   17 1.41
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.12.0.1 jaxlib==0.12.0.1 libtpu==0.0.50.1
cat > "$folder/stacks.py" <<'PY'
import os

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

chip = SingleDeviceSharding(topologies.get_topology_desc("v5e:1x1", "tpu").devices[0])
D = 1_000_000


def updates(model, rates):
    return jax.lax.map(lambda rate: model - rate * jnp.sin(model), rates)


for clients in (1, 8, 9, 10, 16, 17):
    shapes = [
        jax.ShapeDtypeStruct((size,), jnp.float32, sharding=chip)
        for size in (D, clients)
    ]
    compiled = jax.jit(updates).lower(*shapes).compile()
    size = compiled.memory_analysis().output_size_in_bytes
    print(clients, round(size / (4 * clients * D), 2))
PY
"$folder/venv/bin/python" "$folder/stacks.py" 2> "$folder/log" | tee "$folder/out" ||
    { cat "$folder/log"; exit 1; }
diff "$folder/out" - <<'OUT'
1 1.0
8 1.0
9 1.78
10 1.6
16 1.0
17 1.41
OUT
echo "unchanged"
