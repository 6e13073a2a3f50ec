"""Framing: benign clients are excluded for the company that they are given."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_view, quick_jit

from fedjax_sim.attacks.framing import FramingState, candidates, chosen, framing
from fedjax_sim.contracts.attack import Answer
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.ward_clusters import judged_by_ward
from fedjax_sim.numerics.columns import masked_mean

# Clients 0 to 9; the framed one is client 1, the first that does not attack.
ATTACKERS = np.isin(np.arange(10), [0, 4, 7])


# What the attack asks of the facts of a run.
SPEC = SimpleNamespace(
    partition=SimpleNamespace(counts=np.ones(10, int)),
    malicious_ids=np.flatnonzero(ATTACKERS),
)


def test_more_framed_than_benign_clients_are_refused():
    framing(framed=7).init(SPEC)
    with pytest.raises(InputError, match=r"framed = 8 must .* between 1 and 7"):
        framing(framed=8).init(SPEC)


def two_clusters(updates):
    """A server that leaves out the smaller of two Ward clusters."""
    everybody = jnp.ones(len(updates), bool)
    _, apart = judged_by_ward(updates, everybody, jnp.arange(len(updates)))
    weights = (~apart).astype(jnp.float32)
    return Answer(masked_mean(updates, ~apart), weights)


def act(attack, view, answer=None):
    """The state and all that is sent; a function is no argument of a program."""
    start = jax.tree.map(jnp.asarray, attack.init(SPEC))
    crafted = lambda state, view: attack.craft(state, view._replace(answer=answer))
    return quick_jit(crafted)(start, view)


def test_the_framed_are_those_of_the_smallest_ids():
    ids = jnp.array([9, 3, 5, 1, 7])
    benign = jnp.array([True, True, False, True, True])
    np.testing.assert_array_equal(
        chosen(ids, benign, 2), [False, True, False, True, False]
    )
    np.testing.assert_array_equal(chosen(ids, benign, 9), benign)


def test_copies_are_shared_out_among_the_framed():
    view = make_view(ATTACKERS)
    own = np.asarray(view.updates)
    _, updates = act(framing(how="fixed", framed=2), view)
    # Attackers 0, 4 and 7 copy clients 1, 2 and again 1.
    np.testing.assert_allclose(np.asarray(updates)[[0, 4, 7]], own[[1, 2, 1]], 1e-6)
    _, far = act(framing(how="fixed", factor=2.0), view)
    expected = 3 * own[1] - 2 * own[~ATTACKERS].mean(0)
    for row in (0, 4, 7):
        np.testing.assert_allclose(far[row], expected, rtol=1e-4, atol=1e-5)


def test_a_client_is_drawn_into_the_smaller_cluster():
    view = make_view(ATTACKERS, seed=1)
    judge = quick_jit(two_clusters)
    assert judge(view.updates).weights[1] == 1

    state, updates = act(framing(how="search"), view, two_clusters)
    weights = np.asarray(judge(updates).weights)
    assert weights[1] == 0 and state.weight == 0
    np.testing.assert_array_equal(np.flatnonzero(weights == 0), [0, 1, 4, 7])
    # A copy is enough, and the first that is tried.
    assert state.factor == 0


def test_the_factor_of_least_weight_is_taken():
    """A server that counts the framed client least where attackers are far out."""
    view = make_view(ATTACKERS)

    def far(updates):
        distance = jnp.linalg.norm(updates[0] - updates[1])
        weights = jnp.ones(10).at[1].set(1 / (1 + distance))
        return Answer(updates.mean(0), weights)

    state, _ = act(framing(trials=5), view, far)
    assert state.factor == candidates(5).max() == 2
    share = 1 / (1 + 2 * np.linalg.norm(_offset(view)))
    assert state.weight == pytest.approx(10 * share / (9 + share), rel=1e-4)


def _offset(view):
    own = np.asarray(view.updates)
    return own[1] - own[~ATTACKERS].mean(0)


def test_a_round_without_attackers_keeps_the_state():
    view = make_view(np.zeros(6, bool))
    attack = framing(how="search")
    before = FramingState(jnp.float32(4.0), jnp.float32(0.5))
    crafted = lambda state, view: attack.craft(
        state, view._replace(answer=two_clusters)
    )
    state, _ = quick_jit(crafted)(before, view)
    assert (state.factor, state.weight) == (4.0, 0.5)


def test_a_server_that_cannot_be_tried_is_refused():
    with pytest.raises(InputError, match=r"config\.attack\.how = 'search'"):
        act(framing(), make_view(ATTACKERS))
