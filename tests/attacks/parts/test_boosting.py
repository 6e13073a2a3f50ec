"""Copies of the first attacker's update."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.attacks.parts.boosting import copy_sources

MALICIOUS = jnp.array([False, True, False, True, False, False])


def sources(copies, malicious=MALICIOUS, present=None, ids=None):
    n = len(malicious)
    present = jnp.ones(n, bool) if present is None else jnp.array(present)
    ids = jnp.arange(n) if ids is None else jnp.array(ids)
    return copy_sources(malicious, present, ids, copies).tolist()


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        (1, [0, 1, 2, 3, 4, 5]),
        (2, [0, 1, 2, 1, 4, 5]),
        (4, [1, 1, 1, 1, 4, 5]),
        (9, [1] * 6),
    ],
)
def test_attackers_first_then_benign_clients_by_id(copies, expected):
    assert sources(copies) == expected


def test_empty_places_are_never_replaced():
    present = [True, True, False, True, True, False]
    assert sources(4, present=present) == [1, 1, 2, 1, 1, 5]


def test_without_an_attacker_everybody_keeps_the_own():
    assert sources(5, malicious=jnp.zeros(4, bool)) == [0, 1, 2, 3]


def test_ids_decide_and_not_places():
    order = np.array([3, 0, 5, 1, 4, 2])
    by_place = np.array(sources(4))
    shuffled = sources(4, MALICIOUS[order], ids=order)
    np.testing.assert_array_equal(order[shuffled], by_place[order])
