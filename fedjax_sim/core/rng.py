"""Randomness of a run: every draw has one key, derived from what it is for.

`stream(root, purpose, round, client)` folds the purpose, then the round, then the
client *id* (never the position in the cohort) into the run's root key. So a result
does not depend on chunk sizes, the number of devices, which clients train side by
side, or where a run was interrupted.

In JAX `split(key, n)[i]` is `fold_in(key, i)`, and the bits drawn from a key are made
of the same numbers: a key is either drawn from, or split, or folded with numbers.
"""

import enum

import jax
from jax import Array


class Purpose(enum.IntEnum):
    """What a draw is for. Values are part of a run's identity: never renumber."""

    MODEL_INIT = 0
    MALICIOUS_SET = 1
    PARTICIPATION = 2
    LOCAL_TRAINING = 3
    DEFENSE = 4
    ATTACK = 5
    ROOT_DATA = 6
    CLIENT_RELEASE = 7
    IMAGINED_DEFENSE = 8
    ATTACK_PREPARATION = 9


def stream(root: Array, purpose: Purpose, *indices: Array | int) -> Array:
    """Returns the key of `purpose`, folded with `indices` (round, then client id)."""
    key = jax.random.fold_in(root, int(purpose))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
