#!/usr/bin/env bash
# jax 0.10.2
#
# Two ways to derive keys from one: split(key, n) for n children, fold_in(key, i) for a
# number. A program that splits a key for its layers and folds a step number into the
# same key expects streams of their own: the two are different functions.
#
# Expected: split(key, n)[i] differs from fold_in(key, i), and split(key, 2)[0] from
# split(key, 3)[0].
# Behaviour: child i of any split is fold_in(key, i), whatever n is. So a key that is both
# split and folded gives the same draws twice, without a warning; before threefry became
# partitionable by default this was not so.
# Output seen:
#   split(key, 4)[2] == fold_in(key, 2): True
#   split(key, 2)[0] == split(key, 3)[0]: True
#   the same normal draws: True
#   with jax_threefry_partitionable off: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/keys.py" <<'PY'
import jax
import numpy as np

key = jax.random.key(0)
data = jax.random.key_data
same = lambda a, b: bool((data(a) == data(b)).all())
split, fold_in = jax.random.split, jax.random.fold_in
print("split(key, 4)[2] == fold_in(key, 2):", same(split(key, 4)[2], fold_in(key, 2)))
print("split(key, 2)[0] == split(key, 3)[0]:", same(split(key, 2)[0], split(key, 3)[0]))
draws = [jax.random.normal(k, (5,)) for k in (split(key, 4)[2], fold_in(key, 2))]
print("the same normal draws:", bool(np.array_equal(*draws)))
jax.config.update("jax_threefry_partitionable", False)
print("with jax_threefry_partitionable off:", same(split(key, 4)[2], fold_in(key, 2)))
PY
"$folder/venv/bin/python" "$folder/keys.py" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
split(key, 4)[2] == fold_in(key, 2): True
split(key, 2)[0] == split(key, 3)[0]: True
the same normal draws: True
with jax_threefry_partitionable off: False
SEEN
