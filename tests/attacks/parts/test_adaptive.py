"""Attackers go as far as the rule lets them, and know what they declare."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_view, quick_jit
from helpers import build

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.parts.adaptive import adapted, largest_kept
from fedjax_sim.contracts.attack import Answer, CraftView
from fedjax_sim.core.errors import InputError
from fedjax_sim.numerics.columns import masked_mean

# What attackers know by themselves.
HONEST = {"ipm": {"knowledge": "compromised"}}
ATTACKERS = np.array([True, False, False, True, False, False])


def norm_filter(limit: float) -> Callable[[jax.Array], Answer]:
    """A server that leaves out what is longer than `limit`."""

    def answer(updates):
        weights = (jnp.linalg.norm(updates, axis=1) <= limit).astype(jnp.float32)
        return Answer(masked_mean(updates, weights > 0), weights)

    return answer


def craft(attack, state, view: CraftView, limit: float):
    """Against `norm_filter`; its function is no argument of a program."""
    answer = norm_filter(limit)
    act = lambda state, view: attack.craft(state, view._replace(answer=answer))
    return quick_jit(act)(state, view)


def sent(view: CraftView, limit: float, name: str = "none", **options):
    """What the attackers send f32 [q, d], and the factor they found."""
    chosen = {"how": "scale", "share": 0.5, "trials": 10, "largest": 8.0}
    chosen = {**chosen, "knows": "benign", **options}
    attack = ATTACKS.find(name).factory(**HONEST.get(name, {}))
    attack = adapted(attack, **chosen)
    state = jax.tree.map(jnp.asarray, attack.init(None))
    state, updates = craft(attack, state, view, limit)
    return np.asarray(updates)[ATTACKERS], float(attack.report(state)["factor"])


@pytest.mark.parametrize("limit", [0.2, 0.9, 1.0, 3.0, 7.9])
def test_bisection_ends_just_below_the_largest(limit):
    found = largest_kept(lambda factor: factor <= limit, 8.0, 12)
    assert limit * 0.99 < found <= limit


def test_bisection_at_its_ends():
    assert largest_kept(lambda factor: factor <= 9.0, 8.0, 3) == 8
    assert largest_kept(lambda factor: factor < 0, 8.0, 3) == 1 / 8


def test_attackers_are_as_long_as_the_server_allows():
    view = make_view(ATTACKERS)
    longest = float(jnp.linalg.norm(view.updates[ATTACKERS], axis=1).max())
    updates, factor = sent(view, 3 * longest, share=1.0)
    assert 2.9 < factor <= 3
    np.testing.assert_allclose(updates, factor * view.updates[ATTACKERS], rtol=1e-6)


def test_half_of_an_equal_weight_is_kept_by_one_of_two():
    view = make_view(ATTACKERS)
    updates = jnp.where(jnp.arange(6)[:, None] == 3, 1.0, 0.1) * view.updates
    lengths = jnp.linalg.norm(updates, axis=1)
    view, limit = view._replace(updates=updates), 2 * float(lengths[0])
    assert 1.9 < sent(view, limit, share=0.5, trials=12)[1] <= 2
    assert sent(view, limit, share=1.0, trials=12)[1] < 1


def test_the_answer_is_moved_as_far_as_it_goes():
    # Under this server the mean moves with the factor, until the attackers are out.
    view = make_view(ATTACKERS)
    longest = float(jnp.linalg.norm(view.updates[ATTACKERS], axis=1).max())
    _, factor = sent(view, 5 * longest, how="search", trials=20)
    assert 4 < factor <= 5


def test_a_mean_is_replaced_by_the_attackers_model():
    view = make_view(ATTACKERS)
    for how in ("scale", "search"):
        assert sent(view, 1e9, how=how, largest=None)[1] == pytest.approx(3)


def test_what_is_crafted_leaves_the_benign_mean():
    view = make_view(ATTACKERS)
    plain = sent(view, 1e9, "ipm", largest=1.0000001)[0]
    updates, factor = sent(view, 1e9, "ipm", largest=4.0)
    mean = masked_mean(view.updates, jnp.asarray(~ATTACKERS))
    np.testing.assert_allclose(updates - mean, 4 * (plain - mean), atol=1e-4)
    assert factor == pytest.approx(4)


@pytest.mark.parametrize("name", ["none", "ipm"])
def test_hidden_updates_change_nothing(name):
    view = make_view(ATTACKERS)
    longest = float(jnp.linalg.norm(view.updates, axis=1).max())
    other = view._replace(
        updates=jnp.where(ATTACKERS[:, None], view.updates, 100 * view.updates + 7)
    )
    first, second = (sent(v, 2 * longest, name, knows="own") for v in (view, other))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_a_round_without_attackers_keeps_the_factor():
    attack = adapted(
        ATTACKS.find("none").factory(),
        "scale",
        share=0.5,
        trials=4,
        largest=8.0,
        knows="benign",
    )
    view = make_view(np.zeros(6, bool))
    state, _ = craft(attack, ((), jnp.float32(2.5)), view, 1e9)
    assert state[1] == 2.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack.name": "none", "attack.num_malicious": 0}, "needs an attack"),
        ({"attack.adapt_knows": "own"}, "no honest updates"),
        ({"attack.adapt_share": 0.0}, "adapt_share"),
        ({"defense.name": "flcert", "defense.num_groups": 2}, "one model for all"),
    ],
)
def test_what_cannot_be_tried_is_refused(changes, message):
    changes = {"attack.adapt": "scale", "attack.adapt_trials": 2, **changes}
    with pytest.raises(InputError, match=message):
        built = build(changes)
        jax.eval_shape(lambda i: built.round_step(built.init(i), i), built.inputs)
