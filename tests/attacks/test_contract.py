"""What every registered attack must do; see `fedjax_sim.attacks.base`."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_bits, build, jitted_rounds, spied, spy, start_state

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.base import CraftView, Knowledge
from fedjax_sim.defenses import DEFENSES, DefenseEntry

# Everybody takes part, the last two are malicious.
COHORT = {"participation.clients_per_round": 6, "attack.malicious_clients": "last"}


@pytest.fixture(params=sorted(ATTACKS))
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def spy_defense(monkeypatch):
    monkeypatch.setitem(DEFENSES, "spy", DefenseEntry(spy, "-", "none"))


def with_attack(name, **changes):
    return build({"attack.name": name, "defense.name": "spy", **COHORT, **changes})


def shapes(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def test_knowledge_is_declared(name):
    attack = ATTACKS[name].factory()

    assert isinstance(attack.knowledge, tuple)
    assert set(attack.knowledge) <= set(get_args(Knowledge))
    assert ATTACKS[name].paper


def test_short_federation_with_a_state_of_fixed_shape(name):
    """Jitted and looped over rounds on the device."""
    built = with_attack(name)
    start = start_state(built)

    state, reports = jitted_rounds(built, 3)(start, built.inputs, jnp.int32(3))

    assert shapes(state.attack) == shapes(start.attack)
    assert jnp.isfinite(state.params).all()
    assert not np.array_equal(state.params, start.params)
    np.testing.assert_array_equal(reports.malicious, [[0, 0, 0, 0, 1, 1]] * 3)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))
def test_benign_clients_send_what_they_would_without_attack(name):
    attacked, clean = with_attack(name), with_attack("none")
    sent = []
    for built in (attacked, clean):
        step = jax.jit(built.federation.round_step)
        state, _ = step(start_state(built), built.inputs)
        sent.append(spied(state)[:4])

    np.testing.assert_allclose(*sent, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"none"}))
def test_stacking_of_clients_does_not_matter(name):
    states = {}
    for strategy in ("map", "chunk:4"):
        built = with_attack(name, **{"execution.clients": strategy})
        run = jitted_rounds(built, 3)
        states[strategy], _ = run(start_state(built), built.inputs, jnp.int32(3))

    one, four = states["map"], states["chunk:4"]
    np.testing.assert_allclose(spied(four), spied(one), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(four.params, one.params, rtol=1e-4, atol=1e-5)


def test_order_of_a_schedule_does_not_matter(name, tmp_path):
    """The attack of a client depends on its id, not on its place in the list."""
    ids = np.arange(6)
    states = []
    for number, order in enumerate((ids, ids[::-1])):
        path = tmp_path / f"{number}.npy"
        np.save(path, order[None])
        changes = {
            "participation.name": "explicit",
            "participation.schedule": str(path),
        }
        built = with_attack(name, **changes)
        step = jax.jit(built.federation.round_step)
        states.append(step(start_state(built), built.inputs)[0])

    assert_same_bits(states[0], states[1])


def test_craft_does_not_depend_on_the_order_of_rows(name):
    built = with_attack(name)
    attack = ATTACKS[name].factory()
    if attack.craft is None:
        pytest.skip("the attack crafts nothing")
    rng = np.random.default_rng(0)
    size = built.federation.layout.size
    view = CraftView(
        round=jnp.int32(1),
        key=jax.random.key(0),
        global_params=jnp.asarray(rng.normal(size=size), jnp.float32),
        updates=jnp.asarray(rng.normal(size=(6, size)), jnp.float32),
        malicious=jnp.array([False] * 4 + [True] * 2),
        present=jnp.ones(6, bool),
        client_ids=jnp.arange(6, dtype=jnp.int32),
    )
    order = jnp.array([5, 2, 0, 4, 1, 3])
    rows = ("updates", "malicious", "present", "client_ids")
    shuffled = view._replace(**{key: getattr(view, key)[order] for key in rows})
    state = built.federation.init(built.inputs).attack

    _, crafted = jax.jit(attack.craft)(state, view)
    _, other = jax.jit(attack.craft)(state, shuffled)

    chosen = view.malicious[order]
    np.testing.assert_allclose(
        other[chosen], crafted[order][chosen], rtol=1e-4, atol=1e-6
    )
