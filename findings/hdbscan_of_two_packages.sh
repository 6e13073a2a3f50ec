#!/usr/bin/env bash
# hdbscan 0.8.44, scikit-learn 1.9.1, numpy 2.3.5
#
# FLAME and DeepSight cluster clients with HDBSCAN on a matrix of cosine distances. Their
# implementations take it from the package hdbscan or from scikit-learn, with the same
# arguments. Here both get the same 200 matrices of 30 clients, with FLAME's arguments
# (min_cluster_size 16, min_samples 1, allow_single_cluster) and with DeepSight's (5, 3).
#
# Expected: the same clusters and the same noise, whatever the numbers of the clusters.
# Behaviour: scikit-learn counts a point as the first of its own min_samples nearest and
# hdbscan does not, so with the same arguments every core distance is that of another
# neighbour, and nine partitions of ten differ with DeepSight's. One more for scikit-learn
# makes them equal. With FLAME's min_samples of 1 it makes no difference: to the nearest
# neighbour the distance itself is as large.
# Output seen (of 200 matrices, how many are divided otherwise: same arguments, one more):
#   FLAME: 0, 0
#   DeepSight: 181, 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q hdbscan==0.8.44 scikit-learn==1.9.1 numpy==2.3.5
cat > "$folder/compare.py" <<'PY'
import warnings

import hdbscan
import numpy as np
from sklearn.cluster import HDBSCAN

warnings.simplefilter("ignore")  # of defaults that will change


def same(a, b):
    pairs = lambda labels: labels[:, None] == labels
    return np.array_equal(a < 0, b < 0) and np.array_equal(pairs(a), pairs(b))


def matrix(seed):
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(30, 12)) + 1.0
    updates[:8] -= 1.0
    unit = updates / np.linalg.norm(updates, axis=1, keepdims=True)
    distances = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distances, 0)
    return (distances + distances.T) / 2


for name, size, samples, single in (("FLAME", 16, 1, True), ("DeepSight", 5, 3, True)):
    differ = [0, 0]
    for seed in range(200):
        known = dict(min_cluster_size=size, allow_single_cluster=single)
        known["metric"] = "precomputed"
        one = hdbscan.HDBSCAN(min_samples=samples, **known).fit(matrix(seed)).labels_
        for more in (0, 1):
            other = HDBSCAN(min_samples=samples + more, **known)
            differ[more] += not same(one, other.fit(matrix(seed)).labels_)
    print(f"{name}: {differ[0]}, {differ[1]}")
PY
"$folder/venv/bin/python" "$folder/compare.py" | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
FLAME: 0, 0
DeepSight: 181, 0
SEEN
