"""DROP and its distillation: who teaches, what is drawn, and when it stops."""

import contextlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BASE, digits

from fedjax_sim.contracts.defense import Root, RoundContext
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.contracts.model import Model, Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import gather, options_of
from fedjax_sim.defenses.drop import distillation, drop
from fedjax_sim.defenses.drop.distillation import distill
from fedjax_sim.defenses.drop.iteration import draw, from_storage, to_storage
from fedjax_sim.defenses.drop.losses import clone_loss
from fedjax_sim.defenses.drop.record import PICTURES, no_record
from fedjax_sim.defenses.drop.schedule import Schedule
from fedjax_sim.defenses.drop.teachers import ensemble, teacher_logits
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.models.layers import BatchNorm, upsample

SHAPE, CLASSES, CLIENTS = (28, 28, 1), 3, 4
SEEDS, VALIDATION = 6, 5
QUERIES = 4 * 12  # of an iteration


def schedule(**changes) -> Schedule:
    """Returns that of `drop` by default, with changes."""
    usual = {name: option.default for name, option in options_of(drop).items()}
    return gather(Schedule, usual | changes)


TINY = schedule(
    budget=4 * QUERIES,
    batch_size=4,
    iter_clone=2,
    iter_exp=2,
    latent_dim=3,
    num_repeat_real=2,
    every=2,
    num_seed=SEEDS,
    log_iter=2 * QUERIES,
)


@pytest.fixture(autouse=True)
def implicit_ranks(explicit_ranks):
    """Lets the layers of generator and critic broadcast as they do."""
    with jax.numpy_rank_promotion("allow"):
        yield


def init(key):
    """Four hidden units behind 16 pixels, and a running mean of the logits."""
    first, second = jax.random.split(key)
    params = {
        "in": 0.3 * jax.random.normal(first, (16, 4)),
        "out": jax.random.normal(second, (4, CLASSES)),
    }
    return params, {"mean": jnp.zeros(CLASSES)}


def apply(params, buffers, images, *, train, mask=None):
    del mask
    pixels = images[:, ::7, ::7].reshape(len(images), -1)
    logits = jnp.tanh(pixels @ params["in"]) @ params["out"]
    mean = buffers["mean"]
    if train:
        buffers = {"mean": 0.9 * mean + 0.1 * logits.mean(0)}
    return logits + mean, buffers


@pytest.fixture(scope="module")
def network():
    model = Model("tiny", init, apply, apply, "out", True)
    return Network.of(model, SHAPE, CLASSES)


def images(count, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE), minval=-1.0)


# ----------------------------------------------------------------------- teachers


@pytest.fixture(scope="module")
def members(network):
    """Five models."""
    key = jax.random.key(3)
    params = jax.random.normal(key, (5, network.layout.size))
    return params, jax.random.normal(key, (5, CLASSES))


MEMBER = jnp.array([False, True, True, False, True])


def scalar(logits):
    return jnp.sin(logits).sum()


def test_gradient_through_the_teachers_is_that_of_their_mean(network, members):
    params, buffers = members
    teach = teacher_logits(network, jnp.float32)
    x = images(4)

    def plain(x):
        rows = np.flatnonzero(MEMBER)
        logits = [network.logits(params[i], buffers[i], x) for i in rows]
        return jnp.stack(logits).mean(0)

    taught = lambda x: teach(x, ensemble(params, buffers, MEMBER))

    np.testing.assert_allclose(taught(x), plain(x), rtol=1e-5, atol=1e-6)
    got = jax.jit(jax.grad(lambda x: scalar(taught(x))))(x)
    expected = jax.grad(lambda x: scalar(plain(x)))(x)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_left_out_members_teach_nothing(network, members):
    params, buffers = members
    teach = teacher_logits(network, jnp.float32)
    broken = jnp.where(MEMBER[:, None], params, jnp.nan)
    x = images(4)

    for function in (teach, jax.grad(lambda x, m: scalar(teach(x, m)))):
        np.testing.assert_array_equal(
            function(x, ensemble(broken, buffers, MEMBER)),
            function(x, ensemble(params, buffers, MEMBER)),
        )


def test_order_of_the_teachers_does_not_matter(network, members):
    teach = teacher_logits(network, jnp.float32)
    order = jnp.array([3, 1, 4, 0, 2])
    parts = (*members, MEMBER)
    moved = [part[order] for part in parts]
    x = images(4)

    np.testing.assert_allclose(
        teach(x, ensemble(*moved)), teach(x, ensemble(*parts)), rtol=1e-5, atol=1e-6
    )


def test_teachers_in_half_precision(network, members):
    x, group = images(4), ensemble(*members, MEMBER)
    exact = teacher_logits(network, jnp.float32)(x, group)
    half = teacher_logits(network, jnp.bfloat16)(x, group)

    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, rtol=0.05, atol=0.05)
    assert not np.array_equal(half, exact)


# -------------------------------------------------------------------------- draws


def test_iterations_of_the_published_settings():
    assert schedule().iterations == 651  # CIFAR-10
    assert schedule(budget=4_000_000, batch_size=180).iterations == 1481  # EMNIST


DRAWN = schedule(
    batch_size=4, iter_clone=3, iter_exp=2, latent_dim=5, num_repeat_real=2, num_seed=7
)


@pytest.fixture(scope="module")
def drawn():
    """Draws as a function of the key's number and the filled entries (of 40)."""

    @jax.jit
    def make(number, length):
        key = jax.random.key(number)
        return draw(key, DRAWN, length=length, capacity=40)

    return make


def test_shapes_of_the_draws(drawn):
    found = drawn(0, 20)

    assert found.z.shape == (3, 4, 5)
    assert found.real.shape == found.mix.shape == (3, 4)
    assert found.replay.shape == (2, 4)
    assert found.mix.min() >= 0 and found.mix.max() <= 1


@pytest.mark.parametrize("length", [8, 11, 40])
def test_replay_repeats_nothing_and_reads_filled_entries_only(drawn, length):
    seen = set()
    for number in range(60):
        entries = np.ravel(drawn(number, length).replay)
        assert len(set(entries)) == 8
        assert entries.min() >= 0 and entries.max() < length
        seen |= set(entries)
    assert seen == set(range(length))


def test_replay_of_a_small_buffer_starts_over_with_full_batches(drawn):
    """Six entries are one full batch: the second one is the same again."""
    first, second = drawn(0, 6).replay

    assert len(set(np.asarray(first))) == 4
    np.testing.assert_array_equal(first, second)


def test_replay_of_fewer_entries_than_a_batch(drawn):
    entries = drawn(0, 3).replay

    assert set(np.ravel(entries)) == {0, 1, 2}


def test_seeds_are_drawn_from_the_repeated_list(drawn):
    """Twelve of two passes over seven: every seed at most twice, below seven."""
    for number in range(20):
        times = np.bincount(np.ravel(drawn(number, 20).real), minlength=7)
        assert len(times) == 7 and times.max() <= 2


# ------------------------------------------------------------------------ storage


def test_eight_bit_replay_loses_half_a_step():
    x = images(2)
    stored = to_storage(x, jnp.dtype("uint8"))

    assert stored.dtype == jnp.uint8
    back = from_storage(stored)
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, x, atol=0.5 / 127.5 + 1e-6)
    np.testing.assert_array_equal(to_storage(back, jnp.dtype("uint8")), stored)
    ends = jnp.array([-1.0, 1.0, -1.5, 1.5])  # an augmented seed may lie outside
    np.testing.assert_array_equal(to_storage(ends, jnp.dtype("uint8")), [0, 255] * 2)
    np.testing.assert_array_equal(
        from_storage(jnp.array([0, 255], jnp.uint8)), [-1.0, 1.0]
    )


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 2**-8), ("float32", 0)])
def test_replay_in_floating_point(dtype, error):
    x = images(2)
    stored = to_storage(x, jnp.dtype(dtype))

    assert stored.dtype == jnp.dtype(dtype)
    back = from_storage(stored)
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, x, rtol=error, atol=0)


# ----------------------------------------------------------------------- the step


class SmallGenerator(nn.Module):
    """As many pixels as the real one makes, from one layer."""

    channels: int
    start: int
    lowering: str

    @nn.compact
    def __call__(self, z, *, train=False):
        x = BatchNorm(name="bn")(nn.Dense(self.start**2)(z), train=train)
        x = x.reshape(len(z), self.start, self.start, 1)
        return jnp.tanh(upsample(x, 4))


class SmallCritic(nn.Module):
    """A map of four numbers."""

    lowering: str

    @nn.compact
    def __call__(self, x, *, train=False):
        del train
        pixels = x[:, ::7, ::7].reshape(len(x), -1)
        return nn.Dense(4)(jnp.tanh(nn.Dense(8)(pixels)))


@contextlib.contextmanager
def small_networks():
    """The golden files test the real ones, which take long to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "Generator", SmallGenerator)
        patch.setattr(distillation, "Critic", SmallCritic)
        yield


@pytest.fixture(scope="module")
def problem(network):
    """(aggregate, updates [n, d], buffers [n, b], context) of an ordinary round."""
    size = network.layout.size
    keys = jax.random.split(jax.random.key(11), 4)
    context = RoundContext(
        round=jnp.int32(4),
        key=keys[0],
        global_params=0.5 * jax.random.normal(keys[1], (size,)),
        global_buffers=jnp.zeros(CLASSES),
        network=None,
        malicious=None,
    )
    updates = 0.2 * jax.random.normal(keys[2], (CLIENTS, size))
    buffers = 0.1 * jax.random.normal(keys[3], (CLIENTS, CLASSES))
    model = GlobalModel(context.global_params + updates.mean(0), buffers.mean(0))
    return model, updates, buffers, context


@pytest.fixture(scope="module")
def step(network, problem, make_cohort, make_spec):
    """Distils with changes of the ordinary round; one compilation for all tests."""
    seen = images(SEEDS + VALIDATION, seed=2)
    model, updates, buffers, context = problem
    # The aggregate is always right on the validation samples, on one seed of six.
    before = no_record(make_spec(CLIENTS, CLIENTS + 2)._replace(network=network))
    answer = network.logits(*model, seen).argmax(1)
    place = jnp.arange(len(seen))
    wrong = (place > 0) & (place < SEEDS)
    labels = jnp.where(wrong, (answer + 1) % CLASSES, answer)

    @jax.jit
    def run(model, cohort, context, weight, share, start_round):
        root = Root(seen, labels, lambda model, key: model)
        after = distill(
            TINY._replace(
                start_round=start_round,
                prev_global_weight=weight,
                frac_recover_acc=share,
            )
        )
        context = context._replace(root=root, network=network)
        with small_networks():  # while it is traced
            return after.apply(before, model, cohort, context)

    def distilled(
        updates=updates,
        buffers=buffers,
        weights=None,
        *,
        model=model,
        round_=4,
        previous=0.0,
        share=100.0,
        start_round=0,
        recorded=False,
    ):
        cohort = make_cohort(updates, weights=weights, buffers=buffers)
        now = context._replace(round=jnp.int32(round_))
        record, found = run(model, cohort, now, previous, share, start_round)
        return record if recorded else found

    return distilled


def same(first, second):
    return all(map(np.array_equal, first, second))


def test_a_distilled_model_is_new_and_finite(step, problem):
    found = step()

    assert all(np.isfinite(part).all() for part in found)
    assert not np.array_equal(found.params, problem[0].params)
    assert not np.array_equal(found.params, problem[3].global_params)
    assert np.abs(found.buffers).max() > 0  # those of the clone in training
    assert same(step(), found)


def test_what_it_did_is_recorded(step, problem):
    record = step(recorded=True)

    assert (record.round, record.iterations) == (4, TINY.iterations)
    for curve in record.curves:
        assert np.isfinite(curve).sum() == TINY.iterations
    np.testing.assert_array_equal(record.taught, [True] * CLIENTS + [False] * 2)
    assert record.images.shape == (PICTURES, *SHAPE)
    assert np.abs(record.images).max() <= 1 and np.ptp(record.images) > 0
    # The clone has learnt what the aggregate says, also where that is wrong.
    for accuracy in (record.aggregate_accuracy, record.clone_accuracy):
        np.testing.assert_allclose(accuracy, 1 / SEEDS)

    _, updates, *_ = problem
    fewer = step(updates.at[2].set(1e30), recorded=True)
    np.testing.assert_array_equal(np.flatnonzero(fewer.taught), [0, 1, 3])
    assert not step(round_=3, recorded=True).images.any()


@pytest.mark.parametrize(("round_", "start"), [(1, 0), (3, 0), (4, 5), (2, 4)])
def test_other_rounds_keep_the_aggregate(step, problem, round_, start):
    assert same(step(round_=round_, start_round=start), problem[0])


def test_previous_weight_of_one_is_the_aggregate(step, problem):
    np.testing.assert_allclose(step(previous=1.0).params, problem[0].params)
    np.testing.assert_allclose(step(previous=1.0).buffers, problem[0].buffers)


def test_previous_weight_mixes(step, problem):
    clone, aggregate = step().params, problem[0].params

    np.testing.assert_allclose(
        step(previous=0.25).params, 0.75 * clone + 0.25 * aggregate, atol=1e-6
    )


def test_excluded_clients_do_not_teach(step, problem):
    _, updates, buffers, _ = problem
    weights = [1.0, 0.0, 1.0, 1.0]
    without = step(weights=weights)
    other = step(updates.at[1].set(5.0), buffers.at[1].set(-5.0), weights)

    assert same(without, other)
    assert not same(without, step())


def test_how_much_a_survivor_counts_does_not_matter(step):
    assert same(step(weights=[2.0, 1.0, 0.5, 3.0]), step())


@pytest.mark.parametrize("value", [1e30, -1e5, np.nan])
def test_a_client_of_exploding_logits_does_not_teach(step, problem, value):
    _, updates, *_ = problem

    assert same(step(updates.at[2].set(value)), step(weights=[1.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize("value", [1e30, np.nan])
def test_the_aggregate_teaches_where_nobody_else_does(step, problem, value):
    model, updates, buffers, context = problem
    aggregated = updates.at[0].set(model.params - context.global_params)
    alone = step(
        aggregated, buffers.at[0].set(model.buffers), weights=[1.0, 0.0, 0.0, 0.0]
    )
    found = step(jnp.full_like(updates, value))

    assert all(np.isfinite(part).all() for part in found)
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_order_of_the_clients_does_not_matter(step, problem):
    _, updates, buffers, _ = problem
    order = jnp.array([2, 0, 3, 1])
    moved = step(updates[order], buffers[order])

    for a, b in zip(moved, step(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture
def told(monkeypatch):
    """The iterations that a person is told of."""
    seen = []
    monkeypatch.setattr(distillation, "note", seen.append)

    def iterations():
        jax.effects_barrier()
        found = [re.search(r"distillation (\d+)/(\d+)", line) for line in seen]
        return [tuple(map(int, match.groups())) for match in found]

    return iterations


def test_without_a_good_clone_it_runs_to_the_end(step, told):
    jax.block_until_ready(step(share=100.0))

    assert told() == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_good_clone_stops_early_at_the_next_check(step, told):
    """Any clone is good enough; the first check comes after two iterations."""
    stopped = jax.block_until_ready(step(share=0.0))

    assert told() == [(1, 4), (2, 4)]
    assert not same(stopped, step())


# --------------------------------------------------------------------------- DROP

BAD = [
    *(
        ({key: 0}, f"config.defense.{key} = 0 must be at least 1")
        for key in (
            "every",
            "num_seed",
            "batch_size",
            "iter_gen",
            "iter_clone",
            "iter_exp",
            "latent_dim",
            "num_repeat_real",
            "log_iter",
        )
    ),
    ({"budget": 7679}, "config.defense.budget = 7679 must be at least 7680"),
    ({"num_seed": 51}, "config.defense.num_seed = 51 times num_repeat_real = 10"),
    ({"frac_recover_acc": 0.9}, "config.defense.frac_recover_acc = 0.9"),
    ({"num_validation": 100}, "num_validation = 100 go together"),
]


@pytest.mark.parametrize(("options", "part"), BAD)
def test_bad_numbers_are_refused(options, part):
    with pytest.raises(InputError) as problem:
        drop(**options)

    assert part in str(problem.value)
    assert "\n" not in str(problem.value)


def test_least_budget_and_fewest_seeds():
    defense = drop(
        budget=7680, num_seed=52, num_validation=9, frac_recover_acc=0.9, batch_size=512
    )

    assert (defense.root.num_samples, defense.root.augmented) == (61, True)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("uint8", 1)])
def test_memory_of_the_replay_buffer(make_spec, network, dtype, size):
    """CIFAR-10: 334 312 images, 4.1 GB in full precision; ten logits each."""
    images = network._replace(image_shape=(32, 32, 3), num_classes=10)
    spec = make_spec(25, network=images)
    needed = drop(replay_dtype=dtype).memory(spec)

    entries = 334_312 * (3072 * size + 40)
    assert needed == entries + 4 * 25 * network.layout.size


DROP = {
    "defense.name": "drop",
    "defense.every": 2,
    "defense.num_seed": 8,
    "defense.budget": 2 * 48,
    "defense.batch_size": 4,
    "defense.iter_clone": 2,
    "defense.iter_exp": 1,
    "defense.latent_dim": 3,
    "defense.replay_dtype": "uint8",
    "defense.teacher_dtype": "bfloat16",
    "defense.clone_init_with_global": False,
    "partition.num_clients": 6,
    "participation.clients_per_round": 6,
}


def build(side, changes=()):
    """A federation on enlarged digits, cut to `side` pixels."""
    data = digits(120, 20)
    large = lambda x: x.repeat(4, 1).repeat(4, 2)[:, :side, :side]
    data = data._replace(
        train_images=large(data.train_images), test_images=large(data.test_images)
    )
    return experiment.build(resolve(override(BASE, {**DROP, **dict(changes)})), data)


def test_images_that_the_generator_cannot_make():
    with pytest.raises(InputError) as problem:
        build(30)

    assert "sides of 8, 12, 16, ... pixels, the data has 30x30" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.slow
def test_a_short_federation():
    """Round 1 is DROplet's, in round 2 a fresh clone takes the model's place."""
    built = build(32)
    step = jax.jit(built.round_step)
    with small_networks():
        start = built.init(built.inputs)
        once, report = step(start, built.inputs)
        twice, again = step(once, built.inputs)

    assert not report.skipped and not again.skipped
    assert np.isfinite(twice.params).all()
    # The average moved a little; the clone began somewhere else.
    assert again.global_norm > 5 * report.global_norm > 0


def test_the_loss_of_equation_10_sums_over_the_classes():
    teacher, student = jnp.zeros((2, 3)), jnp.array([[1.0, -2, 0], [0, 0, 3]])
    assert clone_loss(teacher, student, "l1", 1.0) == 1.0
    assert clone_loss(teacher, student, "l1_sum", 1.0) == 3.0
