"""What every registered defence must do (the list in `defenses/base.py`).

A defence that is added to `DEFENSES` is tested without another line here; `EXAMPLES`
may add settings worth testing beside the defaults.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.base import Defense, GlobalModel
from fedjax_sim.errors import InputError

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "median": [{}, {"variant": "authors"}],
    "multikrum": [{}, {"variant": "authors"}, {"num_selected": 1}],
    "droplet": [{}, {"reward": None, "blacklist_threshold": 2.0}],
}

# Rules that do not return the common update when all clients agree.
NO_MEANS: set[str] = set()

N, D, B = 9, 24, 5

CASES = [
    pytest.param(name, index, id="-".join([name, *map(str, kwargs.values())]))
    for name in DEFENSES
    for index, kwargs in enumerate(EXAMPLES.get(name, [{}]))
]
every_defense = pytest.mark.parametrize(("name", "index"), CASES)


@lru_cache
def build(name: str, index: int) -> tuple[Defense, Any, Any]:
    """Returns a defence, its whole server round, and that round jitted."""
    defense = DEFENSES[name].factory(**EXAMPLES.get(name, [{}])[index])

    def step(state, cohort, context):
        state, cohort, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(context.global_params + result.update, result.buffers)
        state, model = defense.after(state, model, cohort, context)
        return state, cohort, result, model

    return defense, step, jax.jit(step)


@pytest.fixture
def start(make_cohort, make_context, make_spec):
    """Returns a function to an initial state, a random cohort and a context."""

    def make(defense: Defense, n: int = N, buffers: int = B, seed: int = 0):
        rng = np.random.default_rng(seed)
        cohort = make_cohort(
            rng.normal(size=(n, D)) + rng.normal(size=D),
            ids=rng.permutation(40)[:n],
            buffers=rng.uniform(size=(n, buffers)),
        )
        spec = make_spec(n, num_params=D, num_buffers=buffers)
        return defense.init(spec), cohort, make_context(D, buffers)

    return make


def surviving_ids(cohort) -> set[int]:
    return set(np.asarray(cohort.client_ids)[np.asarray(cohort.weights) > 0].tolist())


def assert_close(actual, expected) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        actual,
        expected,
    )


def take(cohort, rows):
    return jax.tree.map(lambda x: x[rows], cohort)


@every_defense
def test_order_of_clients_does_not_matter(name, index, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    order = np.random.default_rng(1).permutation(N)
    state1, cohort1, _, model1 = step(state, cohort, context)
    state2, cohort2, _, model2 = step(state, take(cohort, order), context)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert_close(state1, state2)


@every_defense
@pytest.mark.parametrize("junk", [1e30, -1e30, np.nan, np.inf])
def test_excluded_clients_have_no_influence(name, index, junk, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    rows = jnp.array([2, 5])
    cohort = cohort._replace(weights=cohort.weights.at[rows].set(0.0))
    dirty = cohort._replace(
        updates=cohort.updates.at[rows].set(junk),
        buffers=cohort.buffers.at[rows].set(junk),
    )
    state1, cohort1, _, model1 = step(state, cohort, context)
    state2, cohort2, _, model2 = step(state, dirty, context)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert not np.asarray(cohort2.weights)[rows].any()
    assert not np.asarray(cohort2.scores["non_finite"])[rows].any()
    assert_close(model1, model2)
    assert_close(state1, state2)


@every_defense
def test_excluded_clients_are_as_good_as_absent(name, index, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    present = np.arange(N) != 4
    weights = cohort.weights.at[4].set(0.0)
    state1, cohort1, _, model1 = step(state, cohort._replace(weights=weights), context)
    state2, cohort2, _, model2 = step(state, take(cohort, present), context)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert_close(state1, state2)


@every_defense
def test_non_finite_clients_are_reported_and_without_influence(name, index, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    rows = jnp.array([0, 3, 7])
    dirty = cohort._replace(
        updates=cohort.updates.at[0, 1].set(jnp.nan).at[3, 2].set(jnp.inf),
        buffers=cohort.buffers.at[7, 0].set(-jnp.inf),
    )
    without = cohort._replace(weights=cohort.weights.at[rows].set(0.0))
    _, cohort1, _, model1 = step(state, dirty, context)
    _, cohort2, _, model2 = step(state, without, context)
    reported = np.flatnonzero(cohort1.scores["non_finite"])
    np.testing.assert_array_equal(reported, rows)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert all(np.isfinite(x).all() for x in model1)


@every_defense
def test_huge_finite_updates_keep_the_model_finite(name, index, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    cohort = cohort._replace(updates=cohort.updates.at[:2].mul(1e30))
    *_, model = step(state, cohort, context)
    assert all(np.isfinite(x).all() for x in model)


@every_defense
@pytest.mark.parametrize("copies", [2, 5, N])
def test_identical_updates(name, index, copies, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    cohort = cohort._replace(
        updates=cohort.updates.at[:copies].set(cohort.updates[:1]),
        buffers=cohort.buffers.at[:copies].set(cohort.buffers[:1]),
    )
    _, _, result, model = step(state, cohort, context)
    assert all(np.isfinite(x).all() for x in model)
    if copies == N and name not in NO_MEANS:
        assert_close(result.update, cohort.updates[0])
        assert_close(result.buffers, cohort.buffers[0])


@every_defense
@pytest.mark.parametrize("reason", ["absent", "non_finite"])
def test_no_survivors_keep_the_model(name, index, reason, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    if reason == "absent":
        cohort = cohort._replace(weights=jnp.zeros(N))
    else:
        cohort = cohort._replace(updates=jnp.full((N, D), jnp.nan))
    state, judged, result, model = step(state, cohort, context)
    assert not surviving_ids(judged)
    assert not np.asarray(result.update).any()
    np.testing.assert_array_equal(model.params, context.global_params)
    np.testing.assert_array_equal(model.buffers, context.global_buffers)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@every_defense
@pytest.mark.parametrize("n", [1, 2, 3])
def test_smallest_cohorts_work_or_are_refused(name, index, n, start):
    defense, step, _ = build(name, index)
    try:
        state, cohort, context = start(defense, n=n)
    except InputError as error:
        assert "\n" not in str(error)
        return
    *_, model = jax.jit(step)(state, cohort, context)
    assert all(np.isfinite(x).all() for x in model)


@every_defense
def test_rounds_scan(name, index, start):
    defense, step, jitted = build(name, index)
    state, *_ = start(defense)
    rounds = [start(defense, seed=r)[1:] for r in range(3)]

    def one_round(state, inputs):
        state, cohort, _, model = step(state, *inputs)
        return state, (cohort.weights, model)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rounds)
    final, (weights, models) = jax.jit(lambda s, x: jax.lax.scan(one_round, s, x))(
        state, stacked
    )
    for r, inputs in enumerate(rounds):
        state, cohort, _, model = jitted(state, *inputs)
        np.testing.assert_array_equal(cohort.weights, weights[r])
        assert_close(model, jax.tree.map(lambda x, r=r: x[r], models))
    assert_close(final, state)


@every_defense
def test_seeds_vmap(name, index, start):
    defense, step, jitted = build(name, index)
    seeds = [start(defense, seed=s) for s in range(3)]
    outputs = jax.jit(jax.vmap(step))(*jax.tree.map(lambda *x: jnp.stack(x), *seeds))
    for s, inputs in enumerate(seeds):
        assert_close(jax.tree.map(lambda x, s=s: x[s], outputs), jitted(*inputs))


@every_defense
def test_models_without_buffers(name, index, start):
    defense, step, _ = build(name, index)
    state, cohort, context = start(defense, buffers=0)
    *_, result, model = jax.jit(step)(state, cohort, context)
    assert result.buffers.shape == model.buffers.shape == (0,)
    assert np.isfinite(model.params).all()


@every_defense
def test_eligibility_is_a_mask_of_the_population(name, index, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    state, *_ = step(state, cohort, context)
    if defense.eligible is not None:
        eligible = defense.eligible(state)
        assert eligible.shape == (40,)
        assert eligible.dtype == bool


def test_every_entry_names_its_source():
    for name, entry in DEFENSES.items():
        assert name.isidentifier()
        assert entry.paper
        assert entry.oracle
