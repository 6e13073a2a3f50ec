"""What every registered defence must do (the list in `contracts/defense.py`).

A defence that is added to `DEFENSES` is tested without another line here; `EXAMPLES`
may add settings worth testing beside the defaults.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "median": [{}, {"variant": "authors"}],
    "multikrum": [{}, {"variant": "authors"}, {"num_selected": 1}],
    "krum": [{}, {"variant": "authors"}, {"num_neighbors": 2}],
    "trimmed_mean": [{}, {"variant": "authors"}],
    "norm_bound": [{}, {"bound": "oracle"}],
    "fltrust": [{}, {"variant": "authors"}],
    "foolsgold": [{}, {"variant": "authors"}],
    "flame": [{}, {"variant": "authors", "features": "updates"}],
    "random_aggregation": [
        {},
        {"normalization": "softmax", "num_selected": 3},
        {"per_layer": True},
    ],
    "iqr_clip_avg": [{}, {"variant": "as_printed"}],
    "sparsefed": [{"fraction": 0.3, "momentum": 0.5, "clip_norm": 1.0}],
    "prodigy": [{}, {"num_byzantine": 3}],
    "dnc": [{"num_byzantine": 2, "num_iterations": 3, "num_coordinates": 8}],
    "fedredefense": [
        {"first_limit": 2, "later_limit": 2, "inner_steps": 1, "threshold": 1e6}
    ],
    "droplet": [{}, {"reward": None, "blacklist_threshold": 2.0}],
}

# Rules that do not return the common update when all clients agree.
NO_MEANS: set[str] = {"fltrust", "foolsgold", "sparsefed", "clip_avg", "flcert"}

# Rules for models without running statistics.
NO_BUFFERS: set[str] = {"fedredefense"}

# DROP distils with images of at least 28x28; its judgement is DROplet's, which is here.
ELSEWHERE: set[str] = {"drop"}

# Rules for federations in which every client takes part in every round.
EVERYBODY: set[str] = {"fldetector"}

# Rules that promise to exclude or to bound one attacker of nine, and the settings under
# which they do. The others may follow a huge update, but stay finite.
ROBUST: dict[str, list[dict[str, Any]]] = {
    "bulyan": [{"num_byzantine": 1}, {"num_byzantine": 1, "variant": "ndss"}],
    "bulyan_leadfl": [{}],
    "clip_avg": [{}],
    "dnc": [{"num_byzantine": 1}],
    "flame": [
        {"noise_sigma": 0.0},
        {"noise_sigma": 0.0, "features": "updates"},
        {"noise_sigma": 0.0, "variant": "authors", "features": "updates"},
    ],
    "fltrust": [{}],
    "iqr_clip_avg": [{}],
    "iqr_filter": [{}],
    "krum": [{}, {"variant": "authors"}],
    "median": [{}, {"variant": "authors"}],
    "multikrum": [{}, {"variant": "authors"}, {"variant": "iterative"}],
    "norm_bound": [{}, {"bound": "oracle"}],
    "prodigy": [{"num_byzantine": 2}],
    "sparsefed": [{"clip_norm": 1.0}],
    "trimmed_mean": [{}, {"variant": "authors"}],
    "droplet": [{}],
}

N, B = 9, 5


def make_defense(name: str, index: int) -> Defense:
    return DEFENSES[name].factory(**EXAMPLES.get(name, [{}])[index])


CASES = [
    pytest.param(name, index, id="-".join([name, *map(str, kwargs.values())]))
    for name in sorted(DEFENSES.keys() - ELSEWHERE)
    for index, kwargs in enumerate(EXAMPLES.get(name, [{}]))
]
# Those that may ban clients.
EXPELLING = [case for case in CASES if make_defense(*case.values).eligible is not None]
every_defense = pytest.mark.parametrize(("name", "index"), CASES)
every_default = pytest.mark.parametrize(
    ("name", "index"), [case for case in CASES if case.values[1] == 0]
)


@pytest.fixture(scope="module")
def build(make_network, root):
    """Returns a function to a defence, its whole server round, and that jitted."""

    @cache
    def make(name: str, index: int) -> tuple[Defense, Any, Any]:
        return build_round(make_defense(name, index), make_network, root)

    return make


@pytest.fixture(scope="module")
def build_robust(make_network, root):
    """Returns a function as `build` does, to the settings of `ROBUST`."""

    @cache
    def make(name: str, index: int) -> tuple[Defense, Any, Any]:
        defense = DEFENSES[name].factory(**ROBUST[name][index])
        return build_round(defense, make_network, root)

    return make


def build_round(defense: Defense, make_network, root):
    def step(state, cohort, context):
        # Their functions are static: no arguments of a jitted function.
        network = make_network(context.global_buffers.shape[-1])
        context = context._replace(root=root, network=network)
        state, cohort, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(context.global_params + result.update, result.buffers)
        state, model = defense.after(state, model, cohort, context)
        return state, cohort, result, model

    return defense, step, jax.jit(step)


@pytest.fixture
def start(request, make_cohort, make_context, make_spec, make_network):
    """Returns a function to an initial state, a random cohort and a context."""
    name = request.node.callspec.params["name"]
    everybody = name in EVERYBODY
    default = 0 if name in NO_BUFFERS else B

    def make(defense: Defense, n: int = N, buffers: int = default, seed: int = 0):
        rng = np.random.default_rng(seed)
        network = make_network(buffers)
        layout = network.layout
        population = n if everybody else 40
        cohort = make_cohort(
            rng.normal(size=(n, layout.size)) + rng.normal(size=layout.size),
            ids=rng.permutation(population)[:n],
            buffers=rng.uniform(size=(n, buffers)),
        )
        spec = make_spec(n, population, num_buffers=buffers, network=network)
        context = make_context(layout.size, buffers)
        context = context._replace(malicious=cohort.client_ids % 4 == 1)
        return defense.init(spec), cohort, context

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


def test_every_exception_belongs_to_a_defence():
    assert {*EXAMPLES, *NO_MEANS, *NO_BUFFERS, *ELSEWHERE, *EVERYBODY} <= set(DEFENSES)


@every_defense
def test_order_of_clients_does_not_matter(name, index, build, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    order = np.random.default_rng(1).permutation(N)
    state1, cohort1, _, model1 = step(state, cohort, context)
    moved = context._replace(malicious=context.malicious[order])
    state2, cohort2, _, model2 = step(state, take(cohort, order), moved)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert_close(state1, state2)


@every_defense
@pytest.mark.parametrize("junk", [1e30, -1e30, np.nan, np.inf])
def test_excluded_clients_have_no_influence(name, index, build, junk, start):
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
def test_excluded_clients_are_as_good_as_absent(name, index, build, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    present = np.flatnonzero(np.arange(N) != 4)
    weights = cohort.weights.at[4].set(0.0)
    state1, cohort1, _, model1 = step(state, cohort._replace(weights=weights), context)
    fewer = context._replace(malicious=context.malicious[present])
    state2, cohort2, _, model2 = step(state, take(cohort, present), fewer)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert_close(state1, state2)


@every_defense
def test_non_finite_clients_are_reported_and_without_influence(
    name, index, build, start
):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    rows = jnp.array([0, 3, 7])
    dirty = cohort._replace(
        updates=cohort.updates.at[0, 1].set(jnp.nan).at[3, 2].set(jnp.inf)
    )
    if cohort.buffers.size:
        dirty = dirty._replace(buffers=cohort.buffers.at[7, 0].set(-jnp.inf))
    else:
        dirty = dirty._replace(updates=dirty.updates.at[7, 0].set(-jnp.inf))
    without = cohort._replace(weights=cohort.weights.at[rows].set(0.0))
    _, cohort1, _, model1 = step(state, dirty, context)
    _, cohort2, _, model2 = step(state, without, context)
    reported = np.flatnonzero(cohort1.scores["non_finite"])
    np.testing.assert_array_equal(reported, rows)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(model1, model2)
    assert all(np.isfinite(x).all() for x in model1)


@every_defense
def test_huge_finite_updates_keep_the_model_finite(name, index, build, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    cohort = cohort._replace(updates=cohort.updates.at[:2].mul(1e30))
    *_, model = step(state, cohort, context)
    assert all(np.isfinite(x).all() for x in model)


@every_defense
@pytest.mark.parametrize("copies", [2, 5, N])
def test_identical_updates_stay_finite_and_their_mean_is_the_common_one(
    name, index, build, copies, start
):
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
def test_no_survivors_keep_the_model(name, index, build, reason, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    if reason == "absent":
        cohort = cohort._replace(weights=jnp.zeros(N))
    else:
        cohort = cohort._replace(updates=jnp.full_like(cohort.updates, jnp.nan))
    state, judged, result, model = step(state, cohort, context)
    assert not surviving_ids(judged)
    assert not np.asarray(result.update).any()
    np.testing.assert_array_equal(model.params, context.global_params)
    np.testing.assert_array_equal(model.buffers, context.global_buffers)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@every_defense
@pytest.mark.parametrize("n", [1, 3])
def test_smallest_cohorts_work_or_are_refused(name, index, build, n, start):
    defense, step, _ = build(name, index)
    try:
        state, cohort, context = start(defense, n=n)
    except InputError as error:
        assert str(error).startswith("config.") and "\n" not in str(error)
        return
    *_, model = jax.jit(step)(state, cohort, context)
    assert all(np.isfinite(x).all() for x in model)


@every_default
def test_rounds_scan_and_seeds_vmap(name, index, build, start):
    defense, step, jitted = build(name, index)
    state, *_ = start(defense)
    rounds, seeds = range(3), range(2)
    inputs = [[start(defense, seed=10 * s + r)[1:] for s in seeds] for r in rounds]

    def one_round(state, inputs):
        state, cohort, _, model = step(state, *inputs)
        return state, (cohort.weights, model)

    def run(inputs):
        return jax.lax.scan(one_round, state, inputs)

    stacked = stack([stack(row) for row in inputs])
    finals, outputs = jax.jit(jax.vmap(run, in_axes=1))(stacked)
    for s in seeds:
        alone = state
        for r in rounds:
            alone, cohort, _, model = jitted(alone, *inputs[r][s])
            together = jax.tree.map(lambda x, r=r, s=s: x[s, r], outputs)
            assert_close((cohort.weights, model), together)
        assert_close(alone, jax.tree.map(lambda x, s=s: x[s], finals))


def stack(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@every_default
def test_models_without_buffers(name, index, build, start):
    defense, step, _ = build(name, index)
    state, cohort, context = start(defense, buffers=0)
    *_, result, model = jax.jit(step)(state, cohort, context)
    assert result.buffers.shape == model.buffers.shape == (0,)
    assert np.isfinite(model.params).all()


@pytest.mark.parametrize(("name", "index"), EXPELLING)
def test_eligibility_is_a_mask_of_the_population(name, index, build, start):
    """Everybody at first; a round may ban none but those who took part."""
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    population = N if name in EVERYBODY else 40
    np.testing.assert_array_equal(defense.eligible(state), np.ones(population, bool))
    state, *_ = step(state, cohort, context)
    eligible = defense.eligible(state)
    assert eligible.shape == (population,) and eligible.dtype == bool
    banned = set(np.flatnonzero(~np.asarray(eligible)).tolist())
    assert banned <= set(np.asarray(cohort.client_ids).tolist())


def test_rules_of_all_three_ways_to_ban_are_among_them():
    assert {case.values[0] for case in EXPELLING} >= {
        "droplet",
        "fedredefense",
        "fldetector",
    }


robust = pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(name, index, id="-".join([name, *map(str, kwargs.values())]))
        for name in sorted(ROBUST)
        for index, kwargs in enumerate(ROBUST[name])
    ],
)


def hostile(cohort, rows, sizes, shape):
    """Lets `rows` send entries of +-size: all positive, or of random signs."""
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (len(rows), LENGTH))
    signs = np.ones_like(signs) if shape == "constant" else signs
    sent = signs * np.reshape(sizes, (-1, 1))
    return cohort._replace(updates=cohort.updates.at[rows].set(sent.astype("f4")))


LENGTH = 23  # parameters of `make_network`


@robust
@pytest.mark.parametrize("benign", [1.0, 2.0**-100])
def test_one_attacker_is_excluded_or_bounded(name, index, benign, build_robust, start):
    defense, _, step = build_robust(name, index)
    state, cohort, context = start(defense)
    cohort = cohort._replace(updates=benign * cohort.updates)
    context = context._replace(malicious=jnp.arange(N) == 4)
    others = np.asarray(cohort.updates, float)[np.arange(N) != 4]
    mean = others.mean(0)
    # Near the benign mean: no farther from it than the longest update is from zero.
    distance = np.linalg.norm(others, axis=1).max()
    if benign < 1 and name in ABSOLUTE:
        distance = np.linalg.norm(mean) + ABSOLUTE[name]
    if benign < 1 and (name, ROBUST[name][index].get("variant")) == (
        "flame",
        "authors",
    ):
        # It shortens whole models, of which each client sends a ninth.
        distance = np.linalg.norm(context.global_params) / N * 1.01
    for size in (1e3, 1e10, 1e20, 1e30, 3e38):
        for shape in ("constant", "signs"):
            dirty = hostile(cohort, np.array([4]), [size], shape)
            *_, result, model = step(state, dirty, context)
            assert all(np.isfinite(x).all() for x in (*result, *model))
            assert np.linalg.norm(result.update - mean) <= distance, (size, shape)


# Rules whose bound is a length of its own, whatever the clients send; that length.
ABSOLUTE = {"clip_avg": 0.01, "iqr_clip_avg": 0.01, "fltrust": 0.5, "sparsefed": 1.0}


@every_defense
@pytest.mark.parametrize("shape", ["constant", "signs"])
@pytest.mark.parametrize(
    "sizes",
    [[1e3], [3e38], [1e19, 1e25, 1e31], [1e38, 1e38, 1e38], [3e38, 1e20, -1e38]],
)
def test_finite_updates_give_finite_models(name, index, shape, sizes, build, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    cohort = hostile(cohort, np.arange(len(sizes)), sizes, shape)
    context = context._replace(malicious=jnp.arange(N) < len(sizes))
    state1, cohort1, result1, model1 = step(state, cohort, context)
    for x in jax.tree.leaves((state1, result1, model1)):
        assert np.isfinite(x).all() or not jnp.issubdtype(x.dtype, jnp.floating)
    # Nor does the order of the clients matter then.
    order = np.random.default_rng(1).permutation(N)
    moved = context._replace(malicious=context.malicious[order])
    state2, cohort2, _, model2 = step(state, take(cohort, order), moved)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close_to_largest((state1, model1), (state2, model2))


@every_defense
def test_the_largest_numbers_of_all_stay_finite(name, index, build, start):
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    largest = jnp.full_like(cohort.updates, np.finfo(np.float32).max)
    for updates in (largest, -largest, largest.at[::2].mul(-1)):
        *_, result, model = step(state, cohort._replace(updates=updates), context)
        assert all(np.isfinite(x).all() for x in (*result, *model))


# Rules that compare updates with something else: their own numbers, models, features.
NOT_OF_ANY_SIZE = {
    *ABSOLUTE,
    "crfl",
    "fedredefense",
    "flame",
    "flare",
    "flcert",
    "random_aggregation",
}


@every_defense
@pytest.mark.parametrize("power", [-100, 80])
def test_the_size_of_updates_does_not_matter(name, index, power, build, start):
    if name in NOT_OF_ANY_SIZE:
        return
    defense, _, step = build(name, index)
    state, cohort, context = start(defense)
    _, cohort1, result1, _ = step(state, cohort, context)
    scale = 2.0**power
    scaled = cohort._replace(updates=scale * cohort.updates)
    _, cohort2, result2, _ = step(state, scaled, context)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    assert_close(result1.update, result2.update / scale)


def assert_close_to_largest(actual, expected) -> None:
    """Sums of huge numbers of both signs leave rounding errors of the huge ones."""

    def check(a, b):
        largest = np.abs(np.asarray(b, float)).max(initial=0.0)
        np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(b, float), rtol=1e-5, atol=1e-5 * largest
        )

    jax.tree.map(check, actual, expected)
