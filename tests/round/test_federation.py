"""A round of a federation, and rounds in a row, as a library user calls them."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    after,
    assert_same_bits,
    build,
    jitted_rounds,
    spied,
    spy,
    start_state,
)

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.defense import Stage, exclude
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.data.partition import PARTITIONS, drop_iid, with_fake_clients
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.round import federation as fed
from fedjax_sim.round.clock import timed
from fedjax_sim.round.twin import couple

EVERYBODY = {
    "participation.clients_per_round": 6,
    "attack.malicious_clients": "last",
}


@pytest.fixture
def register(monkeypatch):
    """Returns a function that adds an attack or a defence of a test by name."""

    def add(name, *, attack=None, defense=None):
        if attack is not None:
            entry = Entry(lambda: attack, "-")
            monkeypatch.setitem(ATTACKS, name, entry)
        if defense is not None:
            entry = Entry(lambda: defense, "-", "none")
            monkeypatch.setitem(DEFENSES, name, entry)

    return add


@pytest.fixture(scope="module")
def plain():
    """An undefended federation and its compiled rounds, up to five at a time."""
    built = build()
    return built, jitted_rounds(built, 5)


def all_finite(tree):
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


# ----------------------------------------------------------------------- rounds


def test_a_round_is_a_pure_function():
    built = build({"defense.name": "droplet"})
    step = jax.jit(built.round_step)
    state = start_state(built)

    assert_same_bits(step(state, built.inputs), step(state, built.inputs))
    assert int(state.round) == 0


def test_rounds_may_be_cut_anywhere(plain):
    built, run = plain
    start = start_state(built)

    whole, reports = run(start, built.inputs, jnp.int32(5))
    cut, head = run(start, built.inputs, jnp.int32(2))
    cut, tail = run(cut, built.inputs, jnp.int32(3))

    assert_same_bits(cut, whole)
    joined = jax.tree.map(lambda a, b: np.concatenate([a[:2], b[:3]]), head, tail)
    assert_same_bits(joined, jax.tree.map(np.asarray, reports))
    np.testing.assert_array_equal(joined.round, [1, 2, 3, 4, 5])


def test_no_rounds_change_nothing(plain):
    built, run = plain
    start = start_state(built)

    assert_same_bits(run(start, built.inputs, jnp.int32(0))[0], start)


def test_seeds_differ(plain):
    built, run = plain
    other = built.inputs._replace(key=jax.random.key(1))

    mine, _ = run(start_state(built), built.inputs, jnp.int32(1))
    theirs, _ = run(start_state(built), other, jnp.int32(1))

    assert not np.array_equal(mine.params, theirs.params)


def compiled(caplog):
    return [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]


def test_more_rounds_compile_nothing(plain, caplog):
    built, run = plain
    counts = [jnp.int32(count) for count in (1, 4, 5)]
    state, _ = run(start_state(built), built.inputs, jnp.int32(5))
    size = run._cache_size()

    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        for count in counts:
            state, _ = run(state, built.inputs, count)
        assert compiled(caplog) == []
        jax.jit(lambda x: x + 1)(state.params)
        assert compiled(caplog) != []  # the counter does count

    assert run._cache_size() == size
    assert int(state.round) == 15


def test_other_hyperparameters_compile_nothing(plain, caplog):
    built, run = plain
    state = start_state(built)
    before, _ = run(state, built.inputs, jnp.int32(1))
    rate = jax.device_put(jnp.float32(0.05), jax.devices()[0])
    hyper = built.inputs.hyper._replace(learning_rate=rate)
    count = jnp.int32(1)

    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        after_, _ = run(state, built.inputs._replace(hyper=hyper), count)

    assert compiled(caplog) == []
    assert not np.array_equal(before.params, after_.params)


def test_rounds_transfer_nothing(plain):
    built, run = plain
    state, count = start_state(built), jax.device_put(jnp.int32(5))
    run(state, built.inputs, count)

    with jax.transfer_guard("disallow"):
        state, _ = run(state, built.inputs, count)
        state.params.block_until_ready()


def test_execution_strategies_agree():
    """Clients of unequal size, so that stacks are sorted and padded."""
    states = {}
    for strategy in ("map", "chunk:3", "vmap"):
        built = build(
            {
                "execution.clients": strategy,
                "partition.name": "drop_dirichlet",
                "participation.clients_per_round": 5,
                "defense.name": "droplet",
            }
        )
        states[strategy] = after(built, 4)

    for strategy in ("chunk:3", "vmap"):
        np.testing.assert_allclose(
            states[strategy].params, states["map"].params, rtol=1e-4, atol=1e-5
        )
    assert_same_bits(states["vmap"].defense, states["map"].defense)


# ------------------------------------------------------------------ server step


def first_step(built, server_lr=1.0):
    """(params before, params after the first round)."""
    hyper = built.inputs.hyper._replace(server_lr=jnp.float32(server_lr))
    state = start_state(built)
    new, _ = jax.jit(built.round_step)(state, built.inputs._replace(hyper=hyper))
    return np.asarray(state.params), np.asarray(new.params)


def test_server_learning_rate_mixes_old_and_new_model(plain):
    built, _ = plain
    old, new = first_step(built)
    _, mixed = first_step(built, 0.5)

    assert np.abs(new - old).max() > 1e-3
    np.testing.assert_allclose(mixed, 0.5 * new + 0.5 * old, rtol=1e-5, atol=1e-6)


def test_server_learning_rate_zero_keeps_the_model(plain):
    old, new = first_step(plain[0], 0.0)

    np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        "adam",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("adagrad", "yogi")),
    ],
)
def test_server_optimizers_stay_finite(optimizer):
    built = build({"server.optimizer": optimizer, "server.lr": 0.1})
    start = start_state(built)
    state = after(built, 5)

    assert all_finite((state.params, state.server))
    assert np.abs(np.asarray(state.params - start.params)).max() > 1e-3
    assert jax.tree.leaves(state.server)  # it remembers something


def test_adam_on_the_server_follows_the_aggregate(plain):
    """First step: bias-corrected moments are g and g^2, eps 1e-3."""
    old, new = first_step(plain[0])
    aggregate = new - old
    _, adam = first_step(build({"server.optimizer": "adam", "server.lr": 0.1}), 0.1)

    expected = old + 0.1 * aggregate / (np.abs(aggregate) + 1e-3)
    np.testing.assert_allclose(adam, expected, rtol=1e-3, atol=1e-5)


# -------------------------------------------------------- clients that go wrong


def test_non_finite_updates_never_reach_the_model(register):
    """NaN in round 1, Inf in round 2, -Inf in round 3; one bad number is enough."""

    def craft(state, view):
        value = jnp.array([np.nan, np.inf, -np.inf])[view.round - 1]
        return state, view.updates.at[:, 3].set(value)

    register("broken", attack=Attack(knowledge=("own_updates",), craft=craft))
    built = build({"attack.name": "broken", **EVERYBODY})
    run = jitted_rounds(built, 3)

    state, reports = run(start_state(built), built.inputs, jnp.int32(3))

    bad = np.array([[False] * 4 + [True] * 2] * 3)
    assert all_finite(state.params)
    assert float(reports.global_norm.min()) > 0
    np.testing.assert_array_equal(reports.scores["non_finite"], bad)
    np.testing.assert_array_equal(reports.weights, np.where(bad, 0, 1))
    assert not reports.skipped.any()


@pytest.mark.parametrize("optimizer", ["none", "adam"])
def test_without_survivors_the_model_stays(register, optimizer):
    def apply(state, cohort, context):
        del context
        return state, exclude(cohort, jnp.ones(len(cohort.weights), bool))

    register("strict", defense=pipeline(Stage(lambda spec: (), apply)))
    built = build({"defense.name": "strict", "server.optimizer": optimizer})
    start = start_state(built)

    state, report = jax.jit(built.round_step)(start, built.inputs)

    assert bool(report.skipped)
    assert float(report.global_norm) == 0
    np.testing.assert_array_equal(report.weights, np.zeros(4))
    assert_same_bits(state, start._replace(round=jnp.int32(1)))


def test_diverging_clients_are_skipped_rounds():
    built = build({"client.lr": 1e38, "client.epochs": 3})
    start = start_state(built)

    state, report = jax.jit(built.round_step)(start, built.inputs)

    assert bool(report.skipped)
    assert report.scores["non_finite"].all()
    assert_same_bits(state.params, start.params)


# ---------------------------------------------------------------------- attacks


def seen_by_craft(register, knowledge, active=None):
    """Runs one round; returns (updates in the view, report, new state)."""

    def init(spec):
        return jnp.ones((6, spec.layout.size))  # ones: not yet called

    def craft(state, view):
        del state
        return view.updates, jnp.full_like(view.updates, 7.0)

    attack = Attack(knowledge=knowledge, init=init, craft=craft, active=active)
    register("curious", attack=attack)
    register("spy", defense=spy())
    built = build({"attack.name": "curious", "defense.name": "spy", **EVERYBODY})
    start = start_state(built)
    state, report = jax.jit(built.round_step)(start, built.inputs)
    return np.asarray(state.attack), report, state


def test_craft_sees_its_own_updates_only(register):
    seen, report, _ = seen_by_craft(register, ("own_updates",))

    np.testing.assert_array_equal(report.malicious, [0, 0, 0, 0, 1, 1])
    assert (seen[:4] == 0).all()
    assert (np.linalg.norm(seen[4:], axis=1) > 0).all()


def test_craft_sees_benign_updates_if_it_says_so(register):
    seen, _, state = seen_by_craft(register, ("own_updates", "benign_updates"))

    assert (np.linalg.norm(seen, axis=1) > 0).all()
    np.testing.assert_array_equal(seen[:4], spied(state)[:4])


def test_craft_replaces_malicious_rows_only(register):
    _, _, state = seen_by_craft(register, ("own_updates",))

    sent = spied(state)
    assert (sent[4:] == 7.0).all()
    assert not (sent[:4] == 7.0).any()


def test_craft_outside_its_window_changes_nothing(register):
    seen, report, state = seen_by_craft(
        register, ("own_updates",), active_rounds(2, None)
    )

    assert not bool(report.active) and not report.acted.any()
    assert (seen == 0).all()
    assert not (spied(state) == 7.0).any()


def test_observe_sees_the_model_in_every_round(register):
    """Also in rounds without a malicious client in the cohort."""
    attack = Attack(
        knowledge=(),
        init=lambda spec: jnp.zeros(2),
        observe=lambda state, index, params: state + jnp.array([1.0, index]),
    )
    register("watcher", attack=attack)
    built = build(
        {
            "attack.name": "watcher",
            "participation.name": "periodic",
            "participation.clients_per_round": 2,
            "participation.burst": 0,
            "participation.malicious_in_burst": 0,
        }
    )

    state = after(built, 3)

    np.testing.assert_array_equal(state.attack, [3.0, 1.0 + 2.0 + 3.0])


def test_poison_acts_inside_its_window_only(register):
    """Rounds 1 and 3 are clean, round 2 is poisoned: [start 2, end 3)."""
    register("spy", defense=spy())
    shared = {"defense.name": "spy", **EVERYBODY}
    attacked = build(
        {
            "attack.start_round": 2,
            "attack.end_round": 3,
            "attack.victim_class": None,  # so that nobody is without a victim
            **shared,
        }
    )
    clean = build({"attack.name": "none", **shared})
    attacked_step = jax.jit(attacked.round_step)
    clean_step = jax.jit(clean.round_step)

    state = start_state(clean)
    for round_index in (1, 2, 3):
        # From the same state, so that rounds can be compared one by one.
        with_attack, report = attacked_step(state, attacked.inputs)
        state, _ = clean_step(state, clean.inputs)
        assert int(report.round) == round_index
        assert bool(report.active) == (round_index == 2)
        sent, expected = spied(with_attack), spied(state)
        # Equal but for the rounding of two programs.
        same = partial(np.isclose, rtol=1e-4, atol=1e-6)
        assert same(sent[:4], expected[:4]).all()
        if round_index == 2:
            assert (~same(sent[4:], expected[4:])).any(axis=1).all()
        else:
            assert same(sent[4:], expected[4:]).all()


# ------------------------------------------------------------------ populations


@pytest.fixture
def fake_partition(monkeypatch):
    """Adds the partition `fake`: four genuine clients first, the rest without data."""

    def fake(labels, *, num_clients, seed):
        genuine = drop_iid(labels, num_clients=4, seed=seed)
        return with_fake_clients(genuine, num_clients - 4)

    monkeypatch.setitem(PARTITIONS, "fake", Entry(fake, "-"))


@pytest.mark.parametrize(("strategy", "steps"), [("map", None), ("vmap", 2)])
def test_clients_without_data_send_exactly_nothing(
    register, fake_partition, strategy, steps
):
    register("spy", defense=spy())
    built = build(
        {
            "partition.name": "fake",
            "attack.name": "none",
            "defense.name": "spy",
            "execution.clients": strategy,
            "client.steps": steps,
            **EVERYBODY,
        }
    )

    state, _ = jax.jit(built.round_step)(start_state(built), built.inputs)

    updates = spied(state)
    assert (updates[4:] == 0).all()
    assert (np.linalg.norm(updates[:4], axis=1) > 0).all()


def test_a_hundred_thousand_clients(fake_partition):
    built = build(
        {
            "partition.name": "fake",
            "partition.num_clients": 100_000,
            "defense.name": "droplet",
            "attack.name": "none",
            "attack.num_malicious": 20_000,
        }
    )
    run = jitted_rounds(built, 2)

    state, reports = run(start_state(built), built.inputs, jnp.int32(2))

    assert reports.client_ids.shape == (2, 4)
    assert int(reports.client_ids.max()) > 1_000
    assert all_finite(state.params)


@pytest.mark.parametrize(
    "strategy", ["map", pytest.param("vmap", marks=pytest.mark.slow)]
)
def test_carried_attack_effect_is_the_derivative_of_a_round(strategy):
    """Without momentum a round takes a small change of the model to (I - eta H)."""
    built = build(
        {
            "evaluation.attack_effect": True,
            "attack.start_round": 2,
            "attack.end_round": 3,
            "client.momentum": 0.0,
            "client.weight_decay": 0.0,
            "client.lr": 0.02,
            "server.lr": 0.7,
            "execution.clients": strategy,
        }
    )
    init, coupled_step = couple(built.parts, built.twin, timed(None))
    step = jax.jit(built.round_step)
    states, carry = init(built.inputs), jax.jit(coupled_step)
    for _ in range(2):
        states, _ = carry(states, built.inputs)
    assert jnp.linalg.norm(states.effect) > 0
    after, _ = carry(states, built.inputs)

    small = 1e-2
    moved = states.main._replace(params=states.main.params + small * states.effect)
    difference = step(moved, built.inputs)[0].params - after.main.params
    error = jnp.linalg.norm(difference / small - after.effect)
    assert error < 0.02 * jnp.linalg.norm(after.effect)
    # It is not simply kept.
    assert jnp.linalg.norm(after.effect - states.effect) > 2 * error


def test_momentum_persists_for_those_who_took_part():
    built = build({"client.persist_momentum": True, "client.lr": 0.1})
    state = after(built, 1)
    assert state.momentum.shape == (6, state.params.size)
    took_part = np.asarray(jnp.abs(state.momentum).max(1) > 0)
    assert took_part.sum() == 4
    # A second round, from the same model, with and without what was kept.
    step = jax.jit(built.round_step)
    with_it, report = step(state, built.inputs)
    without, _ = step(
        state._replace(momentum=jnp.zeros_like(state.momentum)), built.inputs
    )
    absent = np.setdiff1d(np.arange(6), report.client_ids)
    np.testing.assert_array_equal(with_it.momentum[absent], state.momentum[absent])
    assert jnp.abs(with_it.params - without.params).max() > 1e-4


def test_momentum_that_is_no_number_is_forgotten():
    built = build({"client.persist_momentum": True})
    state = after(built, 1)
    state = state._replace(momentum=state.momentum.at[:, 0].set(jnp.nan))
    new, report = jax.jit(built.round_step)(state, built.inputs)
    assert not new.momentum[report.client_ids].any() and bool(report.skipped)
    np.testing.assert_array_equal(new.params, state.params)


@pytest.mark.parametrize("client", ["leadfl", "ldp_update"])
def test_twin_of_an_attacked_run_has_no_attackers(client):
    """There the malicious clients use the client-side defence too."""
    defended = {"client_defense.name": client}
    attacked = build(defended | {"evaluation.attack_effect": True})
    harmless = build(defended | {"attack.name": "none", "attack.num_malicious": 0})
    assert attacked.inputs.malicious.any() and not harmless.inputs.malicious.any()
    models = []
    for parts, inputs in (
        (attacked.twin, attacked.inputs),
        (harmless.parts, harmless.inputs),
    ):
        step = jax.jit(partial(fed.round_step, parts))
        state, _ = step(fed.init(parts, inputs), inputs)
        models.append(state.params)
    np.testing.assert_array_equal(*models)


@pytest.mark.parametrize(
    "changes",
    [
        {"server.optimizer": "sgd"},
        pytest.param(
            {"defense.name": "flip", "defense.steps": 1}, marks=pytest.mark.slow
        ),
    ],
)
def test_attack_effect_without_its_recursion_is_nan(changes):
    built = build({"evaluation.attack_effect": True, "rounds": 1} | changes)
    init, step = couple(built.parts, built.twin, timed(None))
    states, _ = jax.jit(step)(init(built.inputs), built.inputs)
    assert jnp.isnan(states.effect).all()
