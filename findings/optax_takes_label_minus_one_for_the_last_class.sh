#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, numpy 2.4.3 on Python 3.11
#
# The loss of optax that everybody trains classifiers with is given a label that is none
# of the C classes: -1, which data sets write for "no label", or C.
# Expected: NaN or an error in both cases.
# Behaviour: the label C gives NaN. Negative ones count from the end: the images without a
# label are trained, with a loss that looks like any other, to be the last class.
# Output seen (three classes; the losses of classes 0, 1, 2 first):
#   of the classes: [2.4076 1.4076 0.4076]
#   -1, -2, -3: [0.4076 1.4076 2.4076]
#   3, -4: [nan nan]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.3
cat > "$folder/loss.py" <<'PY'
import jax.numpy as jnp
import numpy as np
import optax

np.set_printoptions(precision=4)


def losses(*labels):
    logits = jnp.tile(jnp.array([1.0, 2.0, 3.0]), (len(labels), 1))
    loss = optax.softmax_cross_entropy_with_integer_labels
    return np.asarray(loss(logits, jnp.array(labels)))


print("of the classes:", losses(0, 1, 2))
print("-1, -2, -3:", losses(-1, -2, -3))
print("3, -4:", losses(3, -4))
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/loss.py" | tee "$folder/out"
diff "$folder/out" - <<'OUT'
of the classes: [2.4076 1.4076 0.4076]
-1, -2, -3: [0.4076 1.4076 2.4076]
3, -4: [nan nan]
OUT
echo "unchanged"
