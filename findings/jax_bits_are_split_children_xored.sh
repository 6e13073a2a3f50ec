#!/usr/bin/env bash
# jax 0.10.2
#
# A program draws one vector from a key and, elsewhere, splits the same key (the habit is
# forbidden, the accident common). Two hash outputs of 64 bits and 32 bits should share
# nothing that one can see.
#
# Expected: the words that bits(key, (n,)) draws are unrelated to the keys split(key, n).
# Behaviour: word i is the XOR of the two words of child key i, exactly: a draw
# fixes one word of the child, given the other. The two streams are not independent.
# Output seen:
#   bits(key, (6,)) == split(key, 6), words xored: True
#   the same for another n: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/bits.py" <<'PY'
import jax
import numpy as np

key = jax.random.key(7)


def related(n):
    children = np.asarray(jax.random.key_data(jax.random.split(key, n)))
    words = np.asarray(jax.random.bits(key, (n,)))
    return bool((words == children[:, 0] ^ children[:, 1]).all())


print("bits(key, (6,)) == split(key, 6), words xored:", related(6))
print("the same for another n:", related(101))
PY
"$folder/venv/bin/python" "$folder/bits.py" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
bits(key, (6,)) == split(key, 6), words xored: True
the same for another n: True
SEEN
