"""FLCert: groups that never meet, and their vote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, digits, jitted_rounds, start_state

from fedjax_sim.contracts.attack import Attack, CraftView
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.defenses.flcert import flcert, majority_vote
from fedjax_sim.round.adversary import adversary

N, POPULATION, GROUPS, D, BUFFERS = 8, 9, 3, 5, 2


@pytest.fixture
def start(make_spec):
    """Returns (defence, first state) for the options."""

    def make(**options):
        defense = flcert(num_groups=GROUPS, **options)
        spec = make_spec(N, POPULATION, num_params=D, num_buffers=BUFFERS)
        return defense, defense.init(spec)

    return make


@pytest.fixture
def cohort(make_cohort):
    rng = np.random.default_rng(0)
    return make_cohort(
        rng.normal(size=(N, D)),
        ids=rng.permutation(POPULATION)[:N],
        buffers=rng.uniform(size=(N, BUFFERS)),
    )


@pytest.fixture
def context(make_context):
    return make_context(D, BUFFERS)


# ------------------------------------------------------------------------- groups


@pytest.mark.parametrize(("population", "groups"), [(9, 3), (10, 3), (4, 4), (5, 1)])
def test_groups_are_even(make_spec, population, groups):
    state = flcert(num_groups=groups).init(make_spec(2, population))

    sizes = np.bincount(state.group, minlength=groups)
    assert len(sizes) == groups and sizes.sum() == population
    assert sizes.max() - sizes.min() <= 1


def test_the_division_has_a_seed_of_its_own(make_spec):
    spec = make_spec(2, 40)
    groups = [flcert(grouping_seed=seed).init(spec).group for seed in (0, 0, 1)]

    np.testing.assert_array_equal(groups[0], groups[1])
    assert not np.array_equal(groups[0], groups[2])


@pytest.mark.parametrize(
    ("base", "rule"),
    [
        ("fedavg", lambda rows: rows.mean(0)),
        ("median", lambda rows: np.median(rows, 0)),
        ("median_lower", lambda rows: np.sort(rows, 0)[(len(rows) - 1) // 2]),
    ],
)
def test_every_group_goes_its_own_way(start, cohort, context, base, rule):
    """Two rounds: in the second each group starts from its own model."""
    defense, state = start(base=base)
    group = np.asarray(state.group)[cohort.client_ids]
    assert sorted(np.bincount(group)) == [2, 3, 3]  # even and odd
    expected = np.tile(context.global_params, (GROUPS, 1))
    for scale in (1.0, 0.5):
        sent = cohort._replace(updates=scale * cohort.updates)
        state, judged, result = defense.aggregate(state, sent, context)
        for g in range(GROUPS):
            expected[g] += rule(np.asarray(sent.updates)[group == g])
            buffers = rule(np.asarray(cohort.buffers)[group == g])
            np.testing.assert_allclose(state.models.buffers[g], buffers, rtol=1e-5)
        np.testing.assert_allclose(state.models.params, expected, rtol=1e-5, atol=1e-6)
        new = context.global_params + result.update
        np.testing.assert_allclose(new, expected.mean(0), rtol=1e-5, atol=1e-6)
        context = context._replace(global_params=new)
        np.testing.assert_array_equal(judged.weights, np.ones(N))


def test_a_client_moves_its_own_group_alone(start, cohort, context):
    defense, state = start()
    before, *_ = defense.aggregate(state, cohort, context)
    for place in range(N):
        dirty = cohort._replace(updates=cohort.updates.at[place].set(1e6))
        after, *_ = defense.aggregate(state, dirty, context)
        moved = (before.models.params != after.models.params).any(1)
        own = int(state.group[cohort.client_ids[place]])
        assert np.flatnonzero(moved).tolist() == [own]


@pytest.mark.parametrize("reason", ["absent", "non_finite"])
def test_a_group_of_which_nobody_takes_part_keeps_its_model(
    start, cohort, context, reason
):
    defense, state = start()
    once, _, result = defense.aggregate(state, cohort, context)
    context = context._replace(global_params=context.global_params + result.update)
    out = state.group[cohort.client_ids] == 1
    if reason == "absent":
        partly = cohort._replace(weights=jnp.where(out, 0.0, cohort.weights))
    else:
        broken = jnp.where(out[:, None], jnp.nan, cohort.updates)
        partly = cohort._replace(updates=broken)
    for state_ in (state, once):
        before = defense.broadcast(
            state_,
            GlobalModel(context.global_params, context.global_buffers),
            cohort.client_ids[jnp.argmax(out)],
        )
        after, *_ = defense.aggregate(state_, partly, context)
        np.testing.assert_array_equal(after.models.params[1], before.params)
        np.testing.assert_array_equal(after.models.buffers[1], before.buffers)
        assert np.isfinite(after.models.params).all()


def test_clients_start_from_the_model_of_their_group(start, cohort, context):
    defense, state = start()
    model = GlobalModel(context.global_params, context.global_buffers)
    first = defense.broadcast(state, model, jnp.int32(4))
    np.testing.assert_array_equal(first.params, model.params)

    state, *_ = defense.aggregate(state, cohort, context)
    for client in range(POPULATION):
        own = defense.broadcast(state, model, jnp.int32(client))
        group = state.group[client]
        np.testing.assert_array_equal(own.params, state.models.params[group])
        np.testing.assert_array_equal(own.buffers, state.models.buffers[group])


# --------------------------------------------------------------------------- vote


def test_ties_go_to_the_smallest_label():
    answers = jnp.array([[3, 0, 2, 1], [1, 0, 1, 1], [3, 1, 2, 0], [1, 1, 0, 2]])

    np.testing.assert_array_equal(majority_vote(answers, 4), [1, 0, 2, 1])


def test_one_spoilt_model_of_three_is_outvoted(make_network, make_spec):
    """Before the first round all of them are the global model."""
    network = make_network(0)
    defense = flcert(num_groups=3)
    state = defense.init(make_spec(3, 6, network=network))
    images = jax.random.normal(jax.random.key(0), (50, 2, 2, 1))
    keys = jax.random.split(jax.random.key(1), 2)
    good, bad = (jax.random.normal(k, (network.layout.size,)) for k in keys)
    empty = jnp.zeros((3, 0))
    answer = lambda params: network.logits(params, empty[0], images).argmax(1)
    predict = lambda state: defense.predict(
        state, GlobalModel(bad, empty[0]), network, images
    )
    assert not np.array_equal(answer(good), answer(bad))

    np.testing.assert_array_equal(predict(state), answer(bad))
    begun = state._replace(
        models=GlobalModel(jnp.stack([good, bad, good]), empty), begun=jnp.bool_(True)
    )
    np.testing.assert_array_equal(predict(begun), answer(good))


# --------------------------------------------------------------------- an attacker


def seen(knowledge, cohort, state, defense, context, attacking):
    """What every client of the cohort would send that tells what it was shown."""

    def craft(state, view):
        told = [
            view.updates[:, 0].sum(),
            view.malicious.sum(),
            view.present.sum(),
            view.global_params[0],
            float(view.defense is not None),
        ]
        return state + view.malicious.sum(), jnp.tile(jnp.stack(told), (N, 1))

    view = CraftView(
        round=jnp.int32(1),
        key=jax.random.key(0),
        global_params=context.global_params,
        updates=cohort.updates,
        malicious=attacking,
        present=jnp.ones(N, bool),
        client_ids=cohort.client_ids,
        defense=state,
        network=None,
    )
    attack = Attack(knowledge=knowledge, craft=craft)
    model = GlobalModel(context.global_params, context.global_buffers)
    foe = adversary(attack, defense.groups)
    return foe.craft(jnp.zeros(GROUPS, int), view, model)


@pytest.mark.parametrize(
    "knowledge", [("own_updates",), ("benign_updates", "aggregation_rule")]
)
def test_attackers_of_a_group_see_nothing_of_another(start, cohort, context, knowledge):
    defense, state = start()
    state, *_ = defense.aggregate(state, cohort, context)
    group = np.asarray(state.group)[cohort.client_ids]
    attacking = np.zeros(N, bool)
    attacking[np.flatnonzero(group == 0)[:2]] = True
    attacking[np.flatnonzero(group == 1)[:1]] = True
    attack_state, sent = seen(
        knowledge, cohort, state, defense, context, jnp.asarray(attacking)
    )

    np.testing.assert_array_equal(sent[~attacking], cohort.updates[~attacking])
    informed = "aggregation_rule" in knowledge
    for g, count in ((0, 2), (1, 1)):
        known = group == g if informed else (group == g) & attacking
        expected = [
            np.asarray(cohort.updates)[known, 0].sum(),
            count,
            (group == g).sum(),
            state.models.params[g, 0],
            informed,
        ]
        for row in np.asarray(sent)[attacking & (group == g)]:
            np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(attack_state, [2, 1, 0])  # each counts its own


# ------------------------------------------------------------------- a federation

EVERYBODY = {
    "defense.name": "flcert",
    "defense.num_groups": 2,
    "participation.clients_per_round": 6,
}


@pytest.mark.slow
@jax.numpy_rank_promotion("allow")
def test_groups_in_one_program_equal_federations_of_their_own(tmp_path):
    clean = {**EVERYBODY, "attack.name": "none", "defense.base": "fedavg"}
    built = build(clean)
    run = jitted_rounds(built, 2)
    state, _ = run(start_state(built), built.inputs, jnp.int32(2))
    for group in range(2):
        members = np.flatnonzero(state.defense.group == group)
        assert len(members) == 3
        np.save(tmp_path / f"{group}.npy", members[None])
        alone = build(
            {
                "attack.name": "none",
                "participation.name": "explicit",
                "participation.clients_per_round": 3,
                "participation.schedule": str(tmp_path / f"{group}.npy"),
            }
        )
        run = jitted_rounds(alone, 2)
        expected, _ = run(start_state(alone), alone.inputs, jnp.int32(2))
        np.testing.assert_allclose(
            state.defense.models.params[group], expected.params, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(
        state.params, state.defense.models.params.mean(0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
@jax.numpy_rank_promotion("allow")
def test_attackers_of_a_group_observe_its_model():
    """Neurotoxin blocks what the last update of its own group has moved."""
    built = build({**EVERYBODY, "attack.name": "neurotoxin"})
    run = jitted_rounds(built, 2)
    first, _ = run(start_state(built), built.inputs, jnp.int32(1))
    second, _ = run(start_state(built), built.inputs, jnp.int32(2))
    start, models = first.attack.model, first.defense.models.params

    assert not np.array_equal(models[0], models[1])
    np.testing.assert_array_equal(second.attack.model, models)
    np.testing.assert_array_equal(second.attack.reference, models - start)


@jax.numpy_rank_promotion("allow")
def test_accuracy_is_that_of_the_vote():
    built = build({**EVERYBODY, "defense.num_groups": 3, "attack.name": "min_max"})
    run = jitted_rounds(built, 2)
    state, _ = run(start_state(built), built.inputs, jnp.int32(2))
    own = state.defense.models
    assert np.isfinite(own.params).all()
    # Noise makes answers of two rounds as different as those of many.
    noise = jax.random.normal(jax.random.key(0), own.params.shape)
    own = own._replace(params=own.params + noise)
    state = state._replace(defense=state.defense._replace(models=own))
    counts = built.evaluate(state, built.inputs, built.test_sets)["clean"]

    data, network = digits(), built.parts.network
    images = normalize(data.test_images, normalization("half", 1))
    answers = np.stack(
        [
            network.logits(params, jnp.zeros(0), images).argmax(1)
            for params in own.params
        ]
    )
    assert len({tuple(row) for row in answers}) == 3
    votes = np.apply_along_axis(lambda a: np.bincount(a).argmax(), 0, answers)
    assert counts.correct == (votes == data.test_labels).sum()
    assert counts.total == 60


# ------------------------------------------------------------------------- errors


def test_bad_options_are_refused(make_spec):
    for make, part in (
        (lambda: flcert(num_groups=0), "config.defense.num_groups = 0 must be"),
        (lambda: flcert(base="mean"), "config.defense.base = 'mean' is not allowed"),
        (
            lambda: flcert(num_groups=6).init(make_spec(3, 5)),
            "config.defense.num_groups = 6 must be at most the number of clients, 5",
        ),
    ):
        with pytest.raises(InputError) as problem:
            make()
        assert str(problem.value).startswith(part)
        assert "\n" not in str(problem.value)
