"""Attackers go as far as the rule lets them, and know what they declare."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_view, quick_jit
from helpers import build, start_state

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.parts.adaptive import adapted, largest_kept, reconstructible
from fedjax_sim.contracts.attack import Answer, CraftView
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.reconstruction import explain, reconstruction_error
from fedjax_sim.defenses.parts.ward_clusters import ward_labels
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


def unknown(updates):
    """The server of attackers who do not know it."""
    raise AssertionError("the rule was tried")


def test_attackers_stay_in_the_benign_ward_cluster():
    """Without the rule: the largest of the factors with which half of them do."""
    view = make_view(ATTACKERS)
    view = view._replace(updates=0.1 * view.updates + 1.0, answer=None)
    attack = ATTACKS.find("none").factory()
    options = {"share": 0.5, "trials": 9, "largest": 4.0, "knows": "benign"}
    attack = adapted(attack, "ward", **options)
    assert "aggregation_rule" not in attack.knowledge
    state = jax.tree.map(jnp.asarray, attack.init(None))
    act = lambda state, view: attack.craft(state, view._replace(answer=unknown))
    state, updates = quick_jit(act)(state, view)

    def share_inside(factor):
        sent = np.where(ATTACKERS[:, None], factor * view.updates, view.updates)
        distances = np.linalg.norm(sent[:, None] - sent[None], axis=2)
        labels = ward_labels(distances, np.ones(6, bool), np.arange(6))
        benign = 0 if (labels == 0).sum() > 3 else 1
        return (labels == benign)[ATTACKERS].mean()

    factors = 4.0 ** np.linspace(1, -1, 9)
    shares = [share_inside(factor) for factor in factors]
    assert min(shares) < 0.5 <= max(shares)
    expected = next(f for f, own in zip(factors, shares, strict=True) if own >= 0.5)
    assert float(attack.report(state)["factor"]) == pytest.approx(expected)
    np.testing.assert_allclose(
        updates[ATTACKERS], expected * view.updates[ATTACKERS], rtol=1e-5
    )


def test_what_is_sent_is_what_the_server_can_rebuild():
    """Its error is 0 for who knows the same, and it is not the update itself."""
    built = build(
        {
            "attack.name": "min_max",
            "attack.adapt": "reconstruct",
            "defense.name": "fedredefense",
            "defense.first_limit": 3,
            "defense.later_limit": 3,
            "defense.num_images": 2,
            "defense.inner_steps": 2,
        }
    )
    state, network = start_state(built), built.parts.network
    settings = built.parts.sides({}).defense.settings
    rng = np.random.default_rng(0)
    updates = jnp.asarray(0.01 * rng.normal(size=(4, network.layout.size)), "f4")
    rows = jnp.array([False, True, False, True])
    view = make_view(rows, network.layout.size)._replace(
        global_params=state.params,
        updates=updates,
        client_ids=jnp.array([0, 2, 3, 5]),
        defense=state.defense,
        settings=settings,
        network=network,
    )

    def rebuilt(updates):
        share, sent = reconstructible(view._replace(updates=updates), updates, rows)
        found = explain(
            settings._replace(mode="continuous"),
            state.defense[0],
            updates,
            view.client_ids,
            rows,
            round_=view.round,
            params=state.params,
            network=network,
        )
        error = reconstruction_error(
            network,
            state.params,
            sent[1],
            jax.tree.map(lambda x: x[1], found.knowledge),
            settings.inner_steps,
        )
        return share, sent, error

    share, sent, error = quick_jit(rebuilt)(updates)
    assert error < 1e-3
    assert float(share[1]) == pytest.approx(
        float(jnp.linalg.norm(sent[1]) / jnp.linalg.norm(updates[1])), rel=1e-4
    )
    assert float(jnp.linalg.norm(sent[1] - updates[1])) > 1e-3


@pytest.mark.parametrize("how", ["scale", "ward"])
@pytest.mark.parametrize("name", ["none", "ipm"])
def test_hidden_updates_change_nothing(name, how):
    view = make_view(ATTACKERS)
    longest = float(jnp.linalg.norm(view.updates, axis=1).max())
    other = view._replace(
        updates=jnp.where(ATTACKERS[:, None], view.updates, 100 * view.updates + 7)
    )
    first, second = (
        sent(v, 2 * longest, name, knows="own", how=how) for v in (view, other)
    )
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
        ({"defense.name": "flcert", "defense.num_groups": 2}, "cannot be simulated"),
        (
            {
                "attack.name": "optimal_ipm",
                "attack.adapt": "none",
                "defense.name": "flcert",
                "defense.num_groups": 2,
            },
            "'optimal_ipm' tries what it sends .* cannot be simulated",
        ),
        ({"attack.adapt": "reconstruct"}, "'fedavg' reconstructs nothing"),
    ],
)
def test_what_cannot_be_tried_is_refused(changes, message):
    changes = {"attack.adapt": "scale", "attack.adapt_trials": 2, **changes}
    with pytest.raises(InputError, match=message):
        built = build(changes)
        jax.eval_shape(lambda i: built.round_step(built.init(i), i), built.inputs)
