"""The clients without f of them: every way to leave f out, and the best of all.

Letters: `n` clients, `S` subsets.
"""

from itertools import combinations
from math import comb

import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import InputError, check_range
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum

# A round looks at each of them.
MAX_SUBSETS = 20_000


def subsets_of(spec: FederationSpec, num_byzantine: int | None) -> np.ndarray:
    """Returns bool [S, n]: who is left out, up to f of the clients in the order of ids.

    For each number that is left out, the sets that *remain* are in lexicographic order.

    Raises:
      InputError: 2f clients or fewer, or too many subsets.
    """
    n = spec.cohort_size
    check_range("defense", "num_byzantine", num_byzantine, 0, n)
    f = byzantine_count(spec, num_byzantine)
    check_quorum(spec, f, 2, 1)
    count = sum(comb(n, k) for k in range(f + 1))
    if count > MAX_SUBSETS:
        raise InputError(
            f"config.defense.num_byzantine = {f} of "
            f"config.participation.clients_per_round = {n} leaves {count} subsets to "
            f"look at in every round; at most {MAX_SUBSETS}"
        )
    out = np.ones((count, n), bool)
    kept = (rows for k in range(f + 1) for rows in combinations(range(n), n - k))
    for subset, rows in zip(out, kept, strict=True):
        subset[list(rows)] = False
    return out


def candidates(out: Array, mask: Array) -> tuple[Array, Array]:
    """Returns bool [S, n], who remains, and bool [S], which subsets are looked at.

    Those that leave f included clients out: f the most that `out` does, or less than
    half of the included clients, where that is fewer.

    Args:
      out: bool [S, n], see `subsets_of`.
      mask: bool [n], clients that count, in the order of ids.
    """
    # A cohort of fewer clients is one with clients that do not count.
    n = len(mask)
    mask = jnp.pad(mask, (0, out.shape[1] - n))
    left_out = out.sum(1)
    f = jnp.minimum(left_out.max(), (mask.sum() - 1) // 2)
    possible = (left_out == f) & ~(out & ~mask[None]).any(1)
    return (mask[None] & ~out)[:, :n], possible


def first_best(costs: Array, possible: Array) -> Array:
    """Returns i32 []: the first of the possible subsets of least cost f32 [S]."""
    return jnp.lexsort((costs, ~possible))[0]
