#!/usr/bin/env bash
# jax 0.10.2, CPU backend
#
# A program is compiled with JAX's persistent compilation cache, thresholds at zero, so
# that everything is kept; a second process asks for the same program. Then a
# jax.debug.print is put into it.
#
# Expected: the second process reads the program from the cache; or, since a callback
# cannot be stored, JAX says so: a warning, or at least a cache miss among its events.
# Behaviour: with a callback anywhere in the program (debug.print, debug.callback,
# pure_callback) nothing is written, and nothing says so. There is no warning, and of the
# two events that count the cache's work, cache_hits and cache_misses, neither occurs: a
# dashboard of hits and misses shows a perfect rate while every process compiles anew.
# Output seen (process, events of the cache, files kept):
#   plain, first: cache_misses, 1
#   plain, second: cache_hits, 1
#   debug.print, first: none, 0
#   debug.print, second: none, 0
#   pure_callback, first: none, 0
#   pure_callback, second: none, 0
#   lines on stderr: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/compile.py" <<'PY'
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

name, which, folder = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = set()
jax.monitoring.register_event_listener(lambda event, **_: events.add(event))
like = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def program(x):
    q = jnp.linalg.qr(x @ x)[0]
    if name == "debug.print":
        jax.debug.print("{}", q.sum())
    if name == "pure_callback":
        q = jax.pure_callback(np.asarray, like, q)
    return q


jax.jit(program).lower(np.ones((64, 64), np.float32)).compile()
counted = ("cache_hits", "cache_misses")
seen = [key for key in counted if f"/jax/compilation_cache/{key}" in events]
kept = [file for file in os.listdir(folder) if file.startswith("jit_program")]
kept = [file for file in kept if file.endswith("-cache")]
print(f"{name}, {which}: {' '.join(seen) or 'none'}, {len(kept)}")
PY
for name in plain debug.print pure_callback; do
  for which in first second; do
    JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/compile.py" \
      "$name" "$which" "$folder/$name" 2>> "$folder/errors" | tee -a "$folder/output"
  done
done
echo "lines on stderr: $(wc -l < "$folder/errors")" | tee -a "$folder/output"
diff - "$folder/output" <<'SEEN'
plain, first: cache_misses, 1
plain, second: cache_hits, 1
debug.print, first: none, 0
debug.print, second: none, 0
pure_callback, first: none, 0
pure_callback, second: none, 0
lines on stderr: 0
SEEN
