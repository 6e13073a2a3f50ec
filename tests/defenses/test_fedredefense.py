"""FedREDefense: limits by round, who is expelled, and what the server remembers."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_bits, build, jitted_rounds, start_state

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.fedredefense import (
    _BASES,
    Base,
    fedredefense,
)
from fedjax_sim.defenses.parts.reconstruction import (
    inner_steps,
    known,
    limits,
    suspicious,
)
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round import federation as fed

N, POPULATION = 5, 12
OPTIONS = {
    "first_limit": 4,
    "later_limit": 6,
    "inner_steps": 2,
    "lr_images": 0.01,
    "lr_labels": 0.01,
    "threshold": 0.5,
}


# ------------------------------------------------------------------------- limits

SEEN = jnp.array([True, False])


@pytest.mark.parametrize("mode", ["dynamic", "continuous"])
@pytest.mark.parametrize("round_", [1, 2, 11])
def test_limits_of_first_and_later_participations(mode, round_):
    settings = fedredefense(first_limit=3, later_limit=7, mode=mode).settings

    np.testing.assert_array_equal(limits(settings, SEEN, jnp.int32(round_)), [7, 3])


@pytest.mark.parametrize(("interval", "due"), [(3, {1, 4, 7}), (1, set(range(1, 9)))])
def test_intermittent_limits(interval, due):
    """Nothing but an evaluation in between; newcomers are not made to wait."""
    settings = fedredefense(
        first_limit=3, later_limit=7, mode="intermittent", interval=interval
    ).settings
    for round_ in range(1, 9):
        found = limits(settings, SEEN, jnp.int32(round_))
        np.testing.assert_array_equal(found, [7 if round_ in due else 0, 3])


def test_an_error_equal_to_the_threshold_is_benign():
    errors = jnp.array([0.5, np.nextafter(np.float32(0.5), 1), np.nan, np.inf, 0.0])

    np.testing.assert_array_equal(suspicious(errors, 0.5), [0, 1, 1, 1, 0])


# --------------------------------------------------------------------- the filter


@pytest.fixture(scope="module")
def network(make_network):
    return make_network(0)


@pytest.fixture(scope="module")
def server(network, make_spec):
    """Returns (defence, start, jitted round) for the common options and more."""

    def make(**more):
        defense = fedredefense(**{**OPTIONS, **more})
        spec = make_spec(N, POPULATION, network=network)
        start = defense.init(spec._replace(key=jax.random.key(7)))

        @jax.jit
        def step(state, cohort, context):
            context = context._replace(network=network)
            return defense.aggregate(state, cohort, context)

        return defense, start, step

    return make


@pytest.fixture(scope="module")
def dynamic(server):
    return server()


@pytest.fixture(scope="module")
def cohort(make_cohort, make_context, network, server):
    """Two updates that the server's first guess explains, and three crafted ones."""
    _, (reconstruction, _), _ = server()
    guess = known(reconstruction, jnp.zeros(1, jnp.int32))
    guess = jax.tree.map(lambda x: x[0], guess)
    model = make_context(network.layout.size).global_params
    trained = jax.jit(
        lambda model, guess: ravel(inner_steps(network, model, guess, 2)[-1])
    )
    moved = trained(model, guess) - model
    size = jnp.linalg.norm(moved)
    noise = jax.random.normal(jax.random.key(0), (3, len(model)))
    noise *= 3 * size / jnp.linalg.norm(noise, axis=1, keepdims=True)
    rows = jnp.stack([noise[0], moved, 1.1 * moved, noise[1], noise[2]])
    return make_cohort(rows, ids=[9, 3, 0, 4, 11])


def context_of(make_context, network, round_=1):
    return make_context(network.layout.size, round_=round_)


@pytest.fixture
def first(make_context, network):
    return context_of(make_context, network)


def expelled(state):
    return set(np.flatnonzero(state[0].expelled))


def test_crafted_updates_are_expelled_and_the_others_averaged(dynamic, cohort, first):
    defense, start, step = dynamic
    state, judged, result = step(start, cohort, first)

    np.testing.assert_array_equal(judged.weights, [0, 1, 1, 0, 0])
    np.testing.assert_allclose(
        result.update, cohort.updates[1:3].mean(0), rtol=1e-5, atol=1e-7
    )
    assert expelled(state) == {4, 9, 11}
    np.testing.assert_array_equal(np.flatnonzero(state[0].seen), [0, 3, 4, 9, 11])
    np.testing.assert_array_equal(~defense.eligible(state), state[0].expelled)
    # Who passes at once counts one evaluation, who never does runs to the limit.
    np.testing.assert_array_equal(judged.scores["iterations"], [4, 1, 1, 4, 4])
    errors = judged.scores["reconstruction_error"]
    assert (np.asarray(errors) > 0.5).tolist() == [True, False, False, True, True]


def test_the_server_remembers_those_who_took_part(dynamic, cohort, first):
    _, start, step = dynamic
    state, *_ = step(start, cohort, first)
    absent = np.setdiff1d(np.arange(POPULATION), cohort.client_ids)
    part = lambda s, rows: jax.tree.map(lambda x: x[rows], s[0].knowledge)

    assert_same_bits(part(state, absent), part(start, absent))
    assert_same_bits(state[0].start, start[0].start)
    for id_, learned in ((0, False), (3, False), (4, True), (11, True)):
        labels = state[0].knowledge.labels[id_]
        assert np.array_equal(labels, start[0].start.labels) != learned


def test_absent_places_of_the_cohort_leave_no_trace(dynamic, cohort, first):
    """Places 0 and 2 are empty: ids 9 and 0 did not take part."""
    _, start, step = dynamic
    empty = cohort._replace(weights=jnp.array([0.0, 1.0, 0.0, 1.0, 1.0]))
    state, judged, _ = step(start, empty, first)

    np.testing.assert_array_equal(np.flatnonzero(state[0].seen), [3, 4, 11])
    assert expelled(state) == {4, 11}
    np.testing.assert_array_equal(judged.scores["iterations"][::2], [0, 0, 4])


def test_expulsion_is_for_good(dynamic, cohort, first, make_context, network):
    """Even with an update like that of an honest client."""
    _, start, step = dynamic
    state, *_ = step(start, cohort, first)
    honest = cohort._replace(updates=cohort.updates.at[0].set(cohort.updates[1]))
    state, judged, result = step(state, honest, context_of(make_context, network, 2))

    np.testing.assert_array_equal(judged.weights, [0, 1, 1, 0, 0])
    assert expelled(state) == {4, 9, 11}
    np.testing.assert_allclose(
        result.update, cohort.updates[1:3].mean(0), rtol=1e-5, atol=1e-7
    )


def test_later_participations_have_their_own_limit(
    dynamic, cohort, first, make_context, network
):
    _, start, step = dynamic
    state, *_ = step(start, cohort, first)
    _, judged, _ = step(state, cohort, context_of(make_context, network, 2))

    np.testing.assert_array_equal(judged.scores["iterations"], [6, 1, 1, 6, 6])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0.0])
def test_bad_updates_are_expelled_and_disturb_nobody(dynamic, cohort, first, value):
    _, start, step = dynamic
    _, clean, expected = step(start, cohort, first)
    broken = cohort._replace(updates=cohort.updates.at[3].set(value))
    state, judged, result = step(start, broken, first)

    assert expelled(state) == {4, 9, 11}
    others = np.array([0, 1, 2, 4])
    for name in ("reconstruction_error", "iterations"):
        np.testing.assert_allclose(
            judged.scores[name][others], clean.scores[name][others], rtol=1e-5
        )
    np.testing.assert_allclose(result.update, expected.update, rtol=1e-5, atol=1e-7)
    assert np.isfinite(result.update).all()


def test_nothing_is_learned_from_an_update_that_is_no_number(dynamic, cohort, first):
    _, start, step = dynamic
    broken = cohort._replace(updates=cohort.updates.at[3].set(np.nan))
    state, *_ = step(start, broken, first)

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state[0].knowledge))
    assert not state[0].seen[4]


def test_order_of_clients_does_not_matter(dynamic, cohort, first):
    _, start, step = dynamic
    order = jnp.array([3, 0, 4, 2, 1])
    moved = jax.tree.map(lambda x: x[order], cohort)
    state1, judged1, result1 = step(start, cohort, first)
    state2, judged2, result2 = step(start, moved, first)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state1, state2)
    close(result1.update, result2.update)
    close(judged1.weights[order], judged2.weights)


def test_clients_side_by_side_change_nothing(server, dynamic, cohort, first):
    _, start, step = dynamic
    _, _, beside = server(stack=3)
    state1, judged1, _ = step(start, cohort, first)
    state2, judged2, _ = beside(start, cohort, first)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state1, state2)
    jax.tree.map(close, judged1.scores, judged2.scores)


def test_continuous_mode_always_runs_to_the_limit(server, cohort, first):
    _, start, step = server(mode="continuous")
    state, judged, _ = step(start, cohort, first)

    np.testing.assert_array_equal(judged.scores["iterations"], [4] * 5)
    np.testing.assert_array_equal(judged.weights, [0, 1, 1, 0, 0])
    assert not np.array_equal(state[0].knowledge.labels[0], start[0].start.labels)


def test_intermittent_mode_judges_in_every_round(
    server, cohort, first, make_context, network
):
    _, start, step = server(mode="intermittent", interval=2)
    state, *_ = step(start, cohort, first)
    after, judged, _ = step(state, cohort, context_of(make_context, network, 2))

    np.testing.assert_array_equal(judged.scores["iterations"], [0] * 5)
    assert_same_bits(after, state)
    crafted = cohort._replace(updates=cohort.updates.at[2].set(cohort.updates[0]))
    state, judged, _ = step(state, crafted, context_of(make_context, network, 2))
    np.testing.assert_array_equal(judged.weights, [0, 1, 0, 0, 0])


def test_the_base_rule_sees_only_who_remains(server, cohort, first):
    _, start, step = server(base="median")
    _, judged, result = step(start, cohort, first)

    np.testing.assert_array_equal(judged.weights, [0, 1, 1, 0, 0])
    np.testing.assert_allclose(
        result.update, cohort.updates[1:3].mean(0), rtol=1e-5, atol=1e-7
    )


def test_every_base_can_be_built():
    assert set(_BASES) == set(get_args(Base))
    for base in _BASES:
        assert fedredefense(base=base).settings == fedredefense().settings


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"first_limit": -1}, "config.defense.first_limit = -1 must be at least 0"),
        ({"later_limit": -1}, "config.defense.later_limit = -1 must be at least 0"),
        ({"interval": 0}, "config.defense.interval = 0 must be at least 1"),
        ({"inner_steps": 0}, "config.defense.inner_steps = 0 must be at least 1"),
        ({"images_per_class": 0}, "config.defense.images_per_class = 0"),
        ({"stack": 0}, "config.defense.stack = 0 must be at least 1"),
        ({"threshold": 0.0}, "config.defense.threshold = 0.0 must be above 0"),
        ({"threshold": float("nan")}, "config.defense.threshold = nan"),
        ({"lr_images": -1.0}, "config.defense.lr_images = -1.0 must be above 0"),
        ({"lr_labels": 0}, "config.defense.lr_labels = 0 must be above 0"),
        ({"lr_rate": 0.0}, "config.defense.lr_rate = 0.0 must be above 0"),
        ({"initial_rate": 0.0}, "config.defense.initial_rate = 0.0 must be above 0"),
    ],
)
def test_bad_numbers_are_refused(options, part):
    with pytest.raises(InputError) as problem:
        fedredefense(**options)

    assert str(problem.value).startswith(part)
    assert "\n" not in str(problem.value)


def test_observing_measures_everybody_and_expels_nobody(server, cohort, first):
    _, start, step = server(observe=True)
    state, judged, result = step(start, cohort, first)

    assert (judged.weights == 1).all() and not expelled(state)
    errors = np.asarray(judged.scores["reconstruction_error"])
    assert (suspicious(errors, OPTIONS["threshold"]) == [1, 0, 0, 1, 1]).all()
    np.testing.assert_allclose(
        result.update, cohort.updates.mean(0), rtol=1e-5, atol=1e-7
    )


def test_a_direct_number_of_images(make_spec, network):
    spec = make_spec(N, network=network)._replace(key=jax.random.key(7))
    for options, count in (({}, 1), ({"images_per_class": 2}, 2), ({}, None)):
        more = options if count else {"num_images": 7}
        state, _ = fedredefense(**OPTIONS, **more).init(spec)
        wanted = count * network.num_classes if count else 7
        assert len(state.start.images) == len(state.start.labels) == wanted


def test_the_variant_of_the_paper_starts_from_uniform_noise(make_spec, network):
    spec = make_spec(N, network=network)._replace(key=jax.random.key(7))
    coded, printed = (
        fedredefense(**OPTIONS, variant=v).init(spec)[0].start.images
        for v in ("authors", "paper")
    )
    assert printed.min() >= 0 and printed.max() <= 1
    assert coded.min() < 0


# ------------------------------------------------------------------- a federation


@jax.numpy_rank_promotion("allow")
@pytest.mark.slow
def test_a_short_federation():
    """Two malicious clients send noise: round by round they are gone."""
    built = build(
        {
            "defense.name": "fedredefense",
            "defense.first_limit": 40,
            "defense.later_limit": 20,
            "defense.inner_steps": 2,
            "defense.lr_images": 10.0,
            "defense.lr_labels": 10.0,
            "defense.initial_rate": 5.0,
            "defense.threshold": 0.6,
            "attack.name": "gaussian",
            "participation.clients_per_round": 6,
        }
    )
    run = jitted_rounds(built, 3)
    state, reports = run(start_state(built), built.inputs, jnp.int32(3))
    malicious = np.asarray(built.inputs.malicious)

    np.testing.assert_array_equal(reports.weights[0] == 0, malicious)
    np.testing.assert_array_equal(
        ~fed.eligible(built.parts, state, built.inputs), malicious
    )
    assert fed.can_expel(built.parts)
    # Expelled clients leave their places empty, whoever they are.
    np.testing.assert_array_equal(reports.present.sum(1), [6, 4, 4])
    for ids, present in zip(reports.client_ids[1:], reports.present[1:], strict=True):
        assert set(np.asarray(ids[present])) == set(np.flatnonzero(~malicious))
    np.testing.assert_array_equal(reports.scores["iterations"][0] == 40, malicious)
    assert not reports.skipped.any()
