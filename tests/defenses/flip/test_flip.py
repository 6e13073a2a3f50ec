"""FLIP: which pair of classes, which batches, what clients remember, and refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import after, build, digits, start_state

from fedjax_sim import models
from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.defenses.flip import flip
from fedjax_sim.defenses.flip.batch import _place, _some, random_triggers
from fedjax_sim.defenses.flip.coded import CodedMemory, _coded_choice
from fedjax_sim.defenses.flip.simplified import FLIPMemory, _choose
from fedjax_sim.defenses.flip.trigger_inversion import Triggers
from fedjax_sim.round.training import batch_gradient

SHAPE, CLASSES, B = (3, 3, 1), 3, 16
NORM = normalization("half", 1)


@pytest.fixture(autouse=True)
def implicit_ranks(explicit_ranks):
    """Lets the layers of flax broadcast as they do."""
    with jax.numpy_rank_promotion("allow"):
        yield


def memory(sizes=None, warm=CLASSES, pair=(0, 1), again=False):
    classes = CLASSES if sizes is None else len(sizes)
    return FLIPMemory(
        sizes=jnp.zeros((classes, classes)) if sizes is None else jnp.asarray(sizes),
        warm=jnp.int32(warm),
        pair=jnp.asarray(pair, jnp.int32),
        again=jnp.bool_(again),
        triggers=Triggers(jnp.full((2, *SHAPE[:2]), 0.5), jnp.full((2, *SHAPE), 0.5)),
    )


# -------------------------------------------------------------- choosing a pair

SIZES = [
    [9.0, 1.0, 2.0, 3.0],
    [4.0, 9.0, 8.0, 5.0],
    [6.0, 7.5, 9.0, 7.0],
    [0.5, 0.4, 0.3, 9.0],
]


def chosen(eligible, last, draws=4000):
    """How often each pair is chosen, f64 [K, K]."""
    state = memory(SIZES, pair=(last, 0))
    keys = jax.random.split(jax.random.key(0), draws)
    pairs = jax.jit(jax.vmap(lambda k: _choose(k, state, jnp.array(eligible), 4)))(keys)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(np.asarray(pairs).T), 1)
    return counts / draws


@pytest.mark.parametrize(
    ("eligible", "last", "best"),
    [
        ([True, True, True, True], 3, (1, 2)),  # the diagonal does not count
        ([True, True, True, True], 1, (2, 1)),  # not the source of the last pair
        ([True, False, False, True], 3, (0, 3)),  # any target will do
    ],
)
def test_largest_trigger_or_at_random(eligible, last, best):
    share = chosen(eligible, last)

    at_random = 0.3 / (sum(eligible) * 3)
    expected = np.where(eligible, at_random, 0.0)[:, None] * ~np.eye(4, dtype=bool)
    expected[best] += 0.7
    np.testing.assert_allclose(share, expected, atol=0.025)
    assert (share[expected == 0] == 0).all()


def test_the_last_source_again_if_there_is_no_other():
    share = chosen([False, True, False, False], 1)

    np.testing.assert_allclose(share[1], [1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)
    assert share[1].sum() == 1


def test_place_among_equal_labels():
    labels = jnp.array([2, 0, 2, 2, 0, 1])
    mask = jnp.array([True, True, False, True, True, True])

    np.testing.assert_array_equal(_place(labels, mask), [0, 0, 1, 1, 1, 0])


@pytest.mark.parametrize("count", [0, 2, 3, 7])
def test_some_images_at_random(count):
    mask = jnp.array([True, False, True, True, False, False])
    keys = jax.random.split(jax.random.key(0), 600)
    picked = jax.vmap(lambda key: _some(key, mask, jnp.float32(count)))(keys)

    assert not picked[:, ~mask].any()
    np.testing.assert_array_equal(picked.sum(1), min(count, 3))
    np.testing.assert_allclose(picked[:, mask].mean(0), min(count, 3) / 3, atol=0.08)


def test_fresh_triggers_differ_and_lie_in_the_unit_interval():
    like = memory().triggers
    one, other = (random_triggers(jax.random.key(seed), like) for seed in (0, 1))

    assert one.mask.min() >= 0 and one.pattern.min() >= 0
    assert max(one.mask.max(), one.pattern.max()) <= 1
    assert not np.array_equal(one.mask, other.mask)
    assert not np.array_equal(one.pattern, other.pattern)


# ---------------------------------------------------------------- a client's batch


@pytest.fixture(scope="module")
def model():
    return models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, width=4)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(0))[0]


@pytest.fixture(scope="module")
def gradients(model, params):
    """Gradients of FLIP, simplified and as coded, and the plain one; jitted."""
    network = Network.of(model, SHAPE, CLASSES)

    def make(**options):
        defense = flip(start_round=3, steps=30, size_min=2, success=0.5, **options)
        gradient = defense.client_side.training.gradient(network, NORM)
        run = jax.jit(
            lambda batch, memory, round_, key: gradient(
                params, {}, batch, memory, round_, key
            )
        )
        return lambda batch, memory, round_=3, seed=0: run(
            batch, memory, jnp.int32(round_), jax.random.key(seed)
        )

    plain = jax.jit(lambda batch: batch_gradient(model, None)(params, {}, batch))
    coded = make(max_size=1.0, variant="authors", corner_block=True)
    return make(max_size=1.0, steps_again=5), coded, plain


@pytest.fixture
def usual(gradients):
    return gradients[0]


@pytest.fixture
def coded(gradients):
    return gradients[1]


@pytest.fixture
def plain(gradients):
    return gradients[2]


def batch_of(*counts):
    """A batch with so many images of each class, the rest padding."""
    labels = np.repeat(np.arange(CLASSES), counts)
    images = np.random.default_rng(1).uniform(size=(B, *SHAPE))
    return Batch(
        jnp.asarray(2 * images - 1, jnp.float32),
        jnp.asarray(np.pad(labels, (0, B - len(labels)))),
        jnp.arange(B) < len(labels),
    )


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in pairs)


MIXED = (6, 5, 3)


def test_before_its_first_round_training_is_plain(usual, plain):
    batch, before = batch_of(*MIXED), memory()
    loss, buffers, grads, remembered, trained = usual(batch, before, round_=2)

    assert same((loss, buffers, grads), plain(batch))
    assert same(remembered, before) and trained


def test_warm_up_goes_through_the_classes(usual, plain):
    batch, state = batch_of(*MIXED), memory(warm=0)
    for target in range(CLASSES):
        _, _, grads, new, trained = usual(batch, state, seed=target)
        assert int(new.warm) == target + 1 and trained
        # One trigger for all sources; the sizes of other targets stay.
        column = np.asarray(new.sizes[:, target])
        assert (column == column[0]).all() and 0 < column[0] <= 9
        others = np.arange(CLASSES) != target
        np.testing.assert_array_equal(new.sizes[:, others], state.sizes[:, others])
        assert not same(grads, plain(batch)[2])
        state = new
    _, _, _, new, _ = usual(batch, state)
    assert int(new.warm) == CLASSES  # it is over


def test_a_pair_serves_two_batches(usual):
    """Only if its first trigger succeeded; then the sizes move half of the way."""
    batch, state = batch_of(*MIXED), memory(jnp.full((CLASSES, CLASSES), 2.0))
    found = []
    for seed in range(6):
        _, _, _, state, trained = usual(batch, state, seed=seed)
        found.append((tuple(map(int, state.pair)), bool(state.again)))
        assert trained
    pairs, again = zip(*found, strict=True)

    assert again == (True, False) * 3
    assert pairs[0] == pairs[1] and pairs[2] == pairs[3] and pairs[4] == pairs[5]
    assert all(a != b for a, b in pairs)
    assert len(set(pairs)) > 1
    assert np.isfinite(state.sizes).all()


def test_two_classes_learn_about_each_other(usual, plain):
    """Both triggers are found, and images of both classes get one."""
    batch = batch_of(8, 8, 0)
    before = memory(jnp.full((CLASSES, CLASSES), 2.0), pair=(0, 1), again=True)
    _, _, grads, new, _ = usual(batch, before)

    np.testing.assert_array_equal(new.pair, [0, 1])
    assert not new.again
    changed = np.asarray(new.sizes != before.sizes)
    np.testing.assert_array_equal(np.argwhere(changed), [[0, 1], [1, 0]])
    assert not same(grads, plain(batch)[2])


def test_one_class_of_enough_images(usual):
    """The target need not be there: its own trigger is not looked for."""
    before = memory(jnp.full((CLASSES, CLASSES), 2.0), pair=(2, 0), again=True)
    _, _, _, new, _ = usual(batch_of(2, 2, 9), before)

    changed = np.asarray(new.sizes != before.sizes)
    np.testing.assert_array_equal(np.argwhere(changed), [[2, 0]])


@pytest.mark.parametrize("counts", [(2, 2, 2), (0, 0, 0)])
def test_a_batch_without_a_pair_is_trained_on_as_it_is(usual, plain, counts):
    batch, before = batch_of(*counts), memory(jnp.full((CLASSES, CLASSES), 2.0))
    loss, buffers, grads, new, trained = usual(batch, before)

    assert trained and same((loss, buffers, grads), plain(batch))
    assert same(new.sizes, before.sizes) and not new.again


def test_padding_has_no_influence(usual):
    batch = batch_of(*MIXED)
    dirty = batch._replace(
        images=jnp.where(batch.mask[:, None, None, None], batch.images, 0.9),
        labels=jnp.where(batch.mask, batch.labels, 2),
    )
    for state in (memory(warm=0), memory()):
        assert same(usual(dirty, state), usual(batch, state))


# ------------------------------------------------------------------------ as coded


def coded_memory(step=CLASSES, size=2.0, **changes):
    """After the warm-up, in round 3."""
    table = jnp.full((CLASSES, CLASSES), size)
    before = CodedMemory(
        sizes=table,
        change=jnp.zeros_like(table),
        warm=jnp.int32(CLASSES),
        pair=jnp.array([0, 1]),
        succeeded=jnp.bool_(False),
        round=jnp.int32(3),
        step=jnp.int32(step),
        triggers=Triggers(
            jnp.zeros((CLASSES, CLASSES, *SHAPE[:2])),
            jnp.zeros((CLASSES, CLASSES, *SHAPE)),
        ),
    )
    return before._replace(**changes)


def test_as_coded_a_batch_without_a_pair_is_skipped(coded):
    before = coded_memory()
    *_, new, trained = coded(batch_of(2, 2, 2), before)
    assert not trained
    assert same(new._replace(step=before.step), before) and new.step == before.step + 1
    assert coded(batch_of(*MIXED), before)[-1]
    # In the warm-up: nobody to turn into class 0, then somebody.
    warming = coded_memory(warm=jnp.int32(0), step=0)
    assert not coded(batch_of(9, 0, 0), warming)[-1]
    assert coded(batch_of(*MIXED), warming)[-1]


def test_as_coded_the_warm_up_measures_every_target(coded):
    state = coded_memory(warm=jnp.int32(0), step=0, size=0.0)
    for target in range(CLASSES):
        *_, state, trained = coded(batch_of(*MIXED), state, seed=target)
        assert trained and int(state.warm) == int(state.step) == target + 1
    assert (np.ptp(state.sizes, axis=0) == 0).all() and (state.sizes >= 0).all()
    assert (state.sizes[0] > 0).sum() >= 2
    np.testing.assert_allclose(state.change, state.sizes / state.sizes.max(), rtol=1e-6)


def test_as_coded_the_counter_restarts_with_a_round(coded):
    *_, new, _ = coded(batch_of(*MIXED), coded_memory(step=7), round_=4)
    assert (int(new.round), int(new.step)) == (4, 1)


@pytest.mark.parametrize(("step", "keeps"), [(1, False), (3, False), (4, True)])
def test_as_coded_a_pair_is_kept_for_the_second_batch(coded, step, keeps):
    """From batch K of a round on; before that every batch has a new one."""
    before = coded_memory(step=step, pair=jnp.array([2, 1]))
    found = {
        tuple(map(int, coded(batch_of(6, 6, 4), before, seed=seed)[3].pair))
        for seed in range(6)
    }
    assert (found == {(2, 1)}) == keeps


def test_as_coded_both_directions_are_remembered(coded):
    before = coded_memory(step=4, pair=jnp.array([0, 1]))
    *_, new, trained = coded(batch_of(8, 8, 0), before)
    assert trained and new.succeeded
    assert {tuple(x) for x in np.argwhere(new.sizes != before.sizes)} == {
        (0, 1),
        (1, 0),
    }
    for pair in ((0, 1), (1, 0)):
        size = new.sizes[pair]
        np.testing.assert_allclose(new.triggers.mask[pair].sum(), size, rtol=1e-5)
        np.testing.assert_allclose(new.change[pair], abs(size - 2) / 4, rtol=1e-5)
    assert (new.triggers.mask[2] == 0).all() and (new.change[2] == 0).all()
    # The next inversion of the pair starts where this one ended.
    later = new._replace(step=jnp.int32(4))
    begin_anew = later._replace(triggers=before.triggers)
    warm, cold = (coded(batch_of(8, 8, 0), m)[3] for m in (later, begin_anew))
    assert warm.sizes[0, 1] < cold.sizes[0, 1]


def test_as_coded_a_single_direction(coded):
    before = coded_memory(step=4, pair=jnp.array([2, 0]))
    *_, new, _ = coded(batch_of(2, 2, 9), before)
    np.testing.assert_array_equal(np.argwhere(new.sizes != before.sizes), [[2, 0]])


def test_as_coded_too_large_a_trigger_skips_the_batch(model, params):
    network = Network.of(model, SHAPE, CLASSES)
    defense = flip(
        variant="authors", start_round=1, size_min=2, success=0.5, max_size=1e-3
    )
    gradient = jax.jit(defense.client_side.training.gradient(network, NORM))
    before = coded_memory(step=4)
    batch = batch_of(8, 8, 0)
    *_, new, trained = gradient(params, {}, batch, before, 3, jax.random.key(0))
    assert not trained and new.sizes[0, 1] > 1e-3 * 9


@pytest.mark.slow
def test_as_coded_the_largest_change_among_a_hundred():
    classes = 12
    change = np.arange(classes**2, dtype=np.float32).reshape(classes, classes)
    np.fill_diagonal(change, 1e6)
    state = coded_memory()._replace(change=jnp.asarray(change), pair=jnp.array([11, 0]))
    keys = jax.random.split(jax.random.key(0), 500)

    def chosen(*sources):
        eligible = jnp.zeros(classes, bool).at[jnp.array(sources)].set(True)
        return jax.vmap(lambda k: _coded_choice(k, state, eligible, classes))(keys)

    pairs, found = chosen(3, 9, 11)  # 11 was the last source
    assert found.all()
    share = (pairs == jnp.array([9, 11])).all(1).mean()
    assert 0.65 < share < 0.8
    # The first rows lie behind the hundred largest changes.
    _, found = chosen(0, 1)
    assert 0.2 < found.mean() < 0.4
    nobody = jnp.zeros(classes, bool)
    assert not _coded_choice(keys[0], state, nobody, classes)[1]


# --------------------------------------------------------------------- predictions


def test_the_model_refuses_to_answer_when_it_is_not_sure(make_network):
    network = make_network(0)
    params = jax.random.normal(jax.random.key(2), (network.layout.size,))
    images = jax.random.normal(jax.random.key(3), (40, 2, 2, 1))
    model = GlobalModel(params, jnp.zeros(0))
    logits = network.logits(*model, images)
    sure = jax.nn.softmax(logits).max(1) > 0.7
    answers = flip(confidence=0.7).predict((), model, network, images)

    assert sure.any() and not sure.all()
    np.testing.assert_array_equal(answers, jnp.where(sure, logits.argmax(1), -1))
    assert flip(confidence=None).predict is None


# ------------------------------------------------------------------- a federation

FLIP = {
    "defense.name": "flip",
    "defense.start_round": 1,
    "defense.steps": 4,
    "defense.steps_again": 2,
    "defense.size_min": 1,
    "defense.success": 0.2,
    "defense.max_size": 1.0,
    "client.epochs": 2,
}


@pytest.mark.slow  # compiles two federations; its training is checked above
def test_before_its_first_round_it_is_fedavg():
    waiting = {**FLIP, "defense.start_round": 4}
    plain = {"client.epochs": FLIP["client.epochs"]}
    states = [after(build(changes), 3) for changes in (waiting, plain)]

    np.testing.assert_array_equal(states[0].params, states[1].params)


@pytest.fixture(scope="module")
def rounds():
    """Four rounds of four of six clients; states from the start on, and reports."""
    built = build(FLIP)
    step = jax.jit(built.round_step)
    states, reports = [start_state(built)], []
    for _ in range(4):
        state, report = step(states[-1], built.inputs)
        states.append(state)
        reports.append(report)
    return built, states, reports


@pytest.mark.slow
def test_memory_is_of_each_client_and_survives_rounds(rounds):
    """33 samples in batches of 16: three a batch, six a round, ten classes to warm."""
    built, states, reports = rounds
    malicious = np.asarray(built.inputs.malicious)
    times = np.zeros(6, int)
    for old, new, report in zip(states, states[1:], reports, strict=False):
        ids = np.asarray(report.client_ids)
        times[ids] += 1
        expected = np.where(malicious, 0, np.minimum(6 * times, 10))
        np.testing.assert_array_equal(new.clients.warm, expected)
        idle = np.setdiff1d(np.arange(6), ids[~malicious[ids]])
        for a, b in zip(*map(jax.tree.leaves, (old, new)), strict=True):
            if a.shape[:1] == (6,):
                np.testing.assert_array_equal(a[idle], b[idle])
    sizes = np.asarray(states[-1].clients.sizes)
    busy = np.flatnonzero((times > 0) & ~malicious)
    assert (times > 2).any() and len(busy) > 1
    assert not np.array_equal(sizes[busy[0]], sizes[busy[1]])


@pytest.mark.slow
def test_memory_does_not_depend_on_the_company(rounds):
    """One round: rounding may later decide which trigger is the smallest."""
    _, states, _ = rounds
    other = after(build({**FLIP, "execution.clients": "chunk:2"}), 1)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)
    jax.tree.map(close, other.defense[0], states[1].defense[0])
    close(other.params, states[1].params)


@pytest.mark.slow
def test_refused_answers_are_wrong(rounds):
    _, states, _ = rounds
    built = build({**FLIP, "defense.confidence": 0.5})
    counts = built.evaluate(states[-1], built.inputs, built.test_sets)["clean"]
    data = digits()
    images = normalize(data.test_images, NORM)
    network = built.parts.network
    logits = network.logits(states[-1].params, jnp.zeros(0), images)
    right = np.asarray(logits.argmax(1) == data.test_labels)
    sure = np.asarray(jax.nn.softmax(logits).max(1) > 0.5)

    assert 0 < (right & sure).sum() < right.sum()
    assert counts.correct == (right & sure).sum()


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options",
    [
        {"start_round": 0},
        {"steps": 0},
        {"steps_again": 0},
        {"size_min": -1},
        {"success": 1.1},
        {"max_size": -0.1},
        {"portion": 2},
        {"confidence": float("nan")},
        {"confidence": 1.5},
    ],
)
def test_bad_numbers_are_refused(options):
    ((key, value),) = options.items()
    with pytest.raises(InputError) as problem:
        flip(**options)

    assert str(problem.value).startswith(f"config.defense.{key} = {value} must")
    assert "\n" not in str(problem.value)


def test_bad_combination_is_refused():
    with pytest.raises(InputError, match=r"steps_again = 3 must be none"):
        flip(variant="authors", steps_again=3)
    with pytest.raises(InputError, match="variant"):
        flip(variant="paper")


@pytest.mark.slow
def test_as_coded_in_a_federation():
    changes = {key: value for key, value in FLIP.items() if "again" not in key}
    changes |= {"defense.variant": "authors", "participation.clients_per_round": 6}
    state = after(build(changes), 2)
    memory, _ = state.defense

    assert jnp.isfinite(state.params).all()
    malicious = memory.step == 0
    assert malicious.sum() == 2  # they train as they like
    # 33 samples in batches of 16, twice, six a round: ten classes in two rounds.
    assert (memory.warm[~malicious] == 10).all()
    assert (memory.step[~malicious] == 6).all()
