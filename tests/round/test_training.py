"""Local training: PyTorch's SGD, batches, poison, and what a client may not do."""

from functools import cache, partial
from itertools import chain, pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.attack import AttackSpec, Poison, PoisonDecision
from fedjax_sim.contracts.client import Batch, ClientContext, ClientTask
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.data.augment import AUGMENTATIONS, Augmentation
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.data.triggers import four_pixel, stamp
from fedjax_sim.models import build
from fedjax_sim.round import training
from fedjax_sim.round.batches import Reader, TrainData, read, shuffled
from fedjax_sim.round.training import LocalWork

SHAPE, CLASSES, SAMPLES = (4, 4, 1), 3, 20
UNIT = normalization("unit", 1)
PLAIN = Reader(Augmentation(), UNIT, None)

# Tests compile more than they compute: leave out the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def make_data(rows, shape=SHAPE, labels=None):
    """Client k holds the samples rows[k]."""
    rng = np.random.default_rng(0)
    indices = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in zip(indices, rows, strict=True):
        row[: len(ids)] = ids
    labels = rng.integers(0, CLASSES, SAMPLES) if labels is None else labels
    return TrainData(
        images=jnp.asarray(rng.integers(0, 256, (SAMPLES, *shape)), jnp.uint8),
        labels=jnp.asarray(labels, jnp.int32),
        indices=jnp.asarray(indices),
        counts=jnp.asarray([len(ids) for ids in rows], jnp.int32),
        poison_plan=(),
    )


def task(client=0, present=True, seed=0, round_index=1):
    return ClientTask(
        client_id=jnp.int32(client),
        malicious=jnp.bool_(False),
        present=jnp.bool_(present),
        round=jnp.int32(round_index),
        key=jax.random.key(seed),
    )


@cache
def trainer(model, work):
    """Compiled once: client, data and hyper-parameters are arguments."""

    @quick_jit
    def run(params, buffers, data, task, settings):
        return training.train_client(
            reader=PLAIN,
            work=work,
            gradient=training.batch_gradient(model, work.microbatch),
            optimizer=training.sgd(*settings),
            data=data,
            params=params,
            buffers=buffers,
            task=task,
        )[:3]

    return quick_jit(model.init)(jax.random.key(3)), run


def train(model, data, work, task, *, lr=0.1, momentum=0.0, weight_decay=0.0):
    """Returns (global params, global buffers, local params, local buffers, loss)."""
    start, run = trainer(model, work)
    return *start, *run(*start, data, task, (lr, momentum, weight_decay))


@cache
def mlp():
    return build("mlp", num_classes=CLASSES, image_shape=SHAPE, width=5)


# ------------------------------------------------------ PyTorch's SGD by hand, f64


def mlp_loss_and_gradients(weights, x, labels):
    """Mean cross-entropy of a two-layer ReLU network and its gradients."""
    w1, b1, w2, b2 = weights
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2 + b2
    logits = logits - logits.max(1, keepdims=True)
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(x))
    loss = -np.log(soft[rows, labels]).mean()
    soft[rows, labels] -= 1
    soft /= len(x)
    back = (soft @ w2.T) * (before > 0)
    return loss, [x.T @ back, back.sum(0), hidden.T @ soft, soft.sum(0)]


def torch_sgd(weights, x, labels, *, steps, lr, momentum, weight_decay):
    velocity, losses = None, []
    for _ in range(steps):
        loss, grads = mlp_loss_and_gradients(weights, x, labels)
        grads = [g + weight_decay * w for g, w in zip(grads, weights, strict=True)]
        velocity = (
            grads
            if velocity is None
            else [momentum * v + g for v, g in zip(velocity, grads, strict=True)]
        )
        weights = [w - lr * v for w, v in zip(weights, velocity, strict=True)]
        losses.append(loss)
    return weights, np.mean(losses)


def as_list(params):
    return [
        np.asarray(params[layer][leaf], np.float64)
        for layer in ("fc1", "fc2")
        for leaf in ("kernel", "bias")
    ]


@pytest.mark.parametrize(
    ("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.05)]
)
@pytest.mark.parametrize("batch_size", [6, 8])  # a full batch, with and without padding
def test_sgd_as_pytorch_does_it(momentum, weight_decay, batch_size):
    settings = {"lr": 0.2, "momentum": momentum, "weight_decay": weight_decay}
    ids = [4, 0, 9, 13, 2, 7]
    data = make_data([[1, 3], ids])
    work = LocalWork(batch_size, epochs=4)
    start, _, local, _, loss = train(mlp(), data, work, task(1), **settings)
    x = np.asarray(data.images, np.float64)[ids].reshape(6, -1) / 255
    labels = np.asarray(data.labels)[ids]
    expected, mean_loss = torch_sgd(as_list(start), x, labels, steps=4, **settings)
    for actual, wanted in zip(as_list(local), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=2e-6)
    np.testing.assert_allclose(loss, mean_loss, rtol=1e-5)


def test_batch_statistics_see_no_padding():
    model = build("leadfl_fashion", num_classes=CLASSES, image_shape=SHAPE)
    data = make_data([[5, 6, 7, 8, 9]])
    exact = train(model, data, LocalWork(5, epochs=2), task())
    padded = train(model, data, LocalWork(8, epochs=2), task())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), padded, exact
    )
    start, after = jax.tree.leaves(padded[1]), jax.tree.leaves(padded[3])
    assert all((a != b).any() for a, b in zip(start, after, strict=True))


def test_client_without_samples_sends_exactly_nothing():
    data = make_data([[], [1, 2]])
    for work in (LocalWork(2, epochs=2), LocalWork(2, steps=3)):
        for who in (task(0), task(1, present=False)):
            start, _, local, _, loss = train(
                mlp(), data, work, who, momentum=0.9, weight_decay=0.1
            )
            jax.tree.map(np.testing.assert_array_equal, local, start)
            assert np.isnan(loss)


@cache
def microbatched():
    return build("cnn", num_classes=CLASSES, image_shape=(10, 10, 1))


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_microbatches_change_only_the_rounding(count):
    model = microbatched()
    # The second client holds as much as fits, so that one program serves all counts.
    data = make_data([range(count), range(12)], (10, 10, 1))
    whole = train(model, data, LocalWork(8, epochs=2), task(), momentum=0.9)
    for microbatch in (2, 4):
        work = LocalWork(8, epochs=2, microbatch=microbatch)
        split = train(model, data, work, task(), momentum=0.9)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            split,
            whole,
        )


@pytest.mark.parametrize("real", [7, 5])
@pytest.mark.parametrize("microbatch", range(1, 9))
def test_every_sample_counts_once_whatever_the_microbatch(microbatch, real):
    """Also where it does not divide the batch of 7; 5: two places are padding."""
    rng = np.random.default_rng(1)
    batch = Batch(
        images=jnp.asarray(rng.normal(size=(7, *SHAPE)), jnp.float32),
        labels=jnp.asarray(rng.integers(0, CLASSES, 7), jnp.int32),
        mask=jnp.arange(7) < real,
    )
    params, buffers = mlp().init(jax.random.key(0))
    found, wanted = (
        quick_jit(training.batch_gradient(mlp(), size))(params, buffers, batch)
        for size in (microbatch, None)
    )
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found, wanted)


# ------------------------------------------------------------- the order of samples


class Visits(NamedTuple):
    """A model that learns nothing: its parameters record what it is shown."""

    samples: jax.Array  # f32 [capacity], sample ids in the order of the visits
    sizes: jax.Array  # f32 [capacity], real samples of each step
    epoch_starts: jax.Array  # f32 [capacity], 1 where an epoch begins


def record(data, work, task, reader=PLAIN, capacity=60):
    """Trains with a recorder; labels must be sample ids. Returns what it was shown."""
    zero = jnp.zeros(capacity)

    def gradient(params, buffers, batch):
        seen, steps = buffers
        places = jnp.where(batch.mask, seen + jnp.cumsum(batch.mask) - 1, capacity)
        grads = Visits(
            zero.at[places].add(batch.labels.astype(jnp.float32), mode="drop"),
            zero.at[steps].add(batch.mask.sum().astype(jnp.float32)),
            zero.at[steps].add(1.0),
        )
        count = batch.mask.sum()
        return jnp.float32(count), (seen + count, steps + 1), grads

    def update(grads, state, params, *, epoch_start, key):
        del params, key
        starts = jnp.where(epoch_start, grads.epoch_starts, 0.0)
        return grads._replace(epoch_starts=starts), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    visits, (seen, steps), loss, *_ = quick_jit(
        lambda data, task: training.train_client(
            reader=reader,
            work=work,
            gradient=gradient,
            optimizer=optimizer,
            data=data,
            params=Visits(zero, zero, zero),
            buffers=(jnp.int32(0), jnp.int32(0)),
            task=task,
        )
    )(data, task)
    assert float(loss) == 1.0  # the recorder's loss is 1 per sample
    return (
        np.asarray(visits.samples[:seen], int).tolist(),
        np.asarray(visits.sizes[:steps], int).tolist(),
        np.asarray(visits.epoch_starts[:steps], int).tolist(),
    )


IDS = [2, 19, 3, 11, 5, 8, 17]
NUMBERED = make_data([[0, 1, 4, 6, 7, 9, 10, 12], IDS], labels=np.arange(SAMPLES))


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (8, [7]), (50, [7])],
)
def test_every_sample_once_per_epoch_and_the_last_batch_kept(batch_size, sizes):
    visited, seen_sizes, starts = record(
        NUMBERED, LocalWork(batch_size, epochs=3), task(1)
    )
    epochs = [visited[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == sorted(IDS) for epoch in epochs)
    assert seen_sizes == sizes * 3
    assert starts == [1, *[0] * (len(sizes) - 1)] * 3
    # Reshuffled: the orders of three epochs differ.
    assert len(set(map(tuple, epochs))) == 3


def test_steps_instead_of_epochs():
    work = LocalWork(3, steps=5)
    visited, sizes, starts = record(NUMBERED, work, task(1))
    assert sizes == [3, 3, 1, 3, 3]
    assert starts == [1, 0, 0, 1, 0]
    assert sorted(visited[:7]) == sorted(IDS)
    assert len(set(visited[7:])) == 6 and set(visited[7:]) < set(IDS)
    assert record(NUMBERED, LocalWork(3, steps=2), task(1))[1] == [3, 3]


@pytest.mark.parametrize(
    ("work", "count", "steps"),
    [
        (LocalWork(4, epochs=2), 0, 0),
        (LocalWork(4, epochs=2), 1, 2),
        (LocalWork(4, epochs=2), 4, 2),
        (LocalWork(4, epochs=2), 5, 4),
        (LocalWork(4, steps=7), 5, 7),
        (LocalWork(4, steps=7), 0, 0),
    ],
)
def test_number_of_steps(work, count, steps):
    assert int(training.num_steps(work, jnp.int32(count))) == steps


@pytest.mark.parametrize(
    ("work", "epochs", "expected"),
    [
        (LocalWork(4, epochs=2), 5, LocalWork(4, epochs=5)),
        (LocalWork(4, epochs=2, steps=10), 5, LocalWork(4, epochs=2, steps=25)),
        (LocalWork(4, epochs=1, steps=10, microbatch=2), 3, LocalWork(4, 1, 30, 2)),
        (LocalWork(4, epochs=8, steps=3), 1, LocalWork(4, epochs=8, steps=1)),
    ],
)
def test_more_epochs_are_more_steps_in_proportion(work, epochs, expected):
    assert training.with_epochs(work, epochs) == expected


# ------------------------------------------------------- learning rate over rounds


def factors(schedule, rounds):
    """The factors of rounds 1, 2, ..., inside and outside of a compiled program."""
    numbers = jnp.arange(1, rounds + 1)
    plain = training.lr_factor(schedule, numbers, rounds)
    compiled = jax.jit(lambda r: training.lr_factor(schedule, r, rounds))(numbers)
    np.testing.assert_allclose(plain, compiled, rtol=1e-6, atol=1e-7)
    return np.asarray(compiled)


def test_constant_learning_rate():
    np.testing.assert_array_equal(factors("constant", 7), np.ones(7))


@pytest.mark.parametrize("rounds", [1, 2, 3, 6, 30, 99, 100, 750, 6000])
def test_a_tenth_of_the_learning_rate_in_the_last_third(rounds):
    """Whole thirds are cut exactly, whatever the rounding."""
    late = 3 * np.arange(rounds) >= 2 * rounds

    np.testing.assert_allclose(factors("step", rounds), np.where(late, 0.1, 1.0))


def test_cosine_learning_rate():
    found = factors("cosine", 4)

    np.testing.assert_allclose(
        found, [1.0, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5], rtol=1e-6
    )


def test_the_order_follows_the_key_alone():
    work = LocalWork(3, epochs=1)
    first = record(NUMBERED, work, task(1))
    assert record(NUMBERED, work, task(1, round_index=9)) == first
    assert record(NUMBERED, work, task(1, seed=1)) != first


def test_shuffling_is_uniform_and_leaves_padding_behind():
    samples = jnp.arange(10, 16)
    keys = jax.random.split(jax.random.key(0), 3000)
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, samples, 4))(keys))
    assert (np.sort(orders[:, :4], axis=1) == [10, 11, 12, 13]).all()
    assert (np.sort(orders[:, 4:], axis=1) == [14, 15]).all()
    hits = np.stack([np.bincount(orders[:, i] - 10, minlength=4) for i in range(4)])
    # Each sample stands in each place with probability 1/4; five deviations.
    np.testing.assert_allclose(hits, 750, atol=5 * (3000 * 3 / 16) ** 0.5)


# -------------------------------------------------------------------------- poison


def batchwise_visits(poisoned, batch_size, epochs=1, malicious=True):
    """The batches of a client of the samples 0 to 9, per epoch."""

    def decide(plan, sample_ids, labels, context):
        hit = jnp.isin(sample_ids, plan) & context.malicious
        return PoisonDecision(hit, labels, jnp.int32(0))

    data = make_data([range(10), [11]], labels=np.arange(SAMPLES))
    data = data._replace(poison_plan=jnp.asarray(poisoned, jnp.int32))
    reader = PLAIN._replace(poison=Poison(None, (), decide, batchwise=True))
    own = task()._replace(malicious=jnp.bool_(malicious))
    work = LocalWork(batch_size, epochs=epochs)
    visited, sizes, starts = record(data, work, own, reader)
    batches = np.split(visited, np.cumsum(sizes)[:-1])
    begins = [*np.flatnonzero(starts), len(sizes)]
    return [batches[a:b] for a, b in pairwise(begins)]


@pytest.mark.parametrize(
    ("poisoned", "batch_size", "clean", "poison"),
    [
        ([1, 4, 7], 4, [3, 3, 1], [1, 1, 1]),  # floor(4 * 0.3) = 1 of each four
        ([1, 4, 7], 8, [6, 1], [2, 1]),
        ([5], 4, [3, 3, 3], [1, 1, 1]),  # at least one, again and again
        ([0, 1, 2, 3, 4, 5], 5, [2, 2], [3, 3]),
        ([0, 1, 2, 3, 4], 4, [2, 2, 1], [2, 2, 1]),
        ([0, 1, 2, 3, 4, 5], 2, [1, 1, 1, 1], [1, 1, 1, 1]),
        (range(9), 20, [1], [9]),
    ],
)
def test_every_batch_holds_its_share_of_the_poison(poisoned, batch_size, clean, poison):
    """Clean samples once each; the poisoned ones in turn, and again from the start."""
    epochs = batchwise_visits(poisoned, batch_size, epochs=3)
    assert len(epochs) == 3
    orders = set()
    for epoch in epochs:
        bad = [[x for x in batch if x in poisoned] for batch in epoch]
        good = [[x for x in batch if x not in poisoned] for batch in epoch]
        assert [len(batch) for batch in good] == clean
        assert [len(batch) for batch in bad] == poison
        assert sorted(chain(*good)) == sorted(set(range(10)) - set(poisoned))
        turn = list(chain(*bad))
        own = turn[: len(poisoned)]
        assert len(set(own)) == len(own)
        assert turn == [own[i % len(own)] for i in range(len(turn))]
        orders.add(tuple(chain(*good)))
    assert len(clean) == 1 or len(orders) == 3


def test_batchwise_poison_leaves_others_alone():
    """A benign client, and one of which every sample or none is poisoned."""
    plain = batchwise_visits([1, 4, 7], 4, malicious=False)
    assert [len(batch) for batch in plain[0]] == [4, 4, 2]
    for poisoned in ([], range(10)):
        (epoch,) = batchwise_visits(poisoned, 4)
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(epoch), np.concatenate(plain[0]))


def poisoned_reader(augmentation, dpr=0.5):
    shape = (8, 8, 1)
    labels = np.arange(SAMPLES) % 4
    partition = Partition(
        np.arange(SAMPLES, dtype=np.int32).reshape(2, 10), np.array([10, 10])
    )
    spec = AttackSpec(
        labels=labels,
        partition=partition,
        malicious_ids=np.array([0, 1]),
        num_classes=4,
        image_shape=shape,
        normalization=UNIT,
        layout=None,
        test_images=None,
        test_labels=None,
    )
    attack = backdoor(dpr=dpr, victim_class=1, target_class=3)
    poison = attack.poison(spec)
    data = make_data([range(10), range(10, 20)], shape, labels)
    data = data._replace(poison_plan=jnp.asarray(poison.plan))
    return Reader(AUGMENTATIONS[augmentation], UNIT, poison), data


def read_all(reader, data, malicious=True):
    context = ClientContext(
        jnp.int32(0), jnp.bool_(malicious), jnp.int32(1), jnp.int32(0)
    )
    ids = jnp.arange(SAMPLES)
    mask = jnp.ones(SAMPLES, bool)
    return read(reader, data, ids, mask, context, jax.random.key(5))


@pytest.mark.parametrize("augmentation", ["none", "drop"])
def test_poisoned_samples_carry_trigger_and_label_and_are_not_augmented(augmentation):
    reader, data = poisoned_reader(augmentation)
    batch = read_all(reader, data)
    # Client 0 has samples 1, 5, 9 of class 1, client 1 has 13, 17: floor(half) of each.
    poisoned = np.isin(np.arange(SAMPLES), [1, 13])
    plain = normalize(data.images, UNIT)
    trigger = four_pixel((8, 8, 1), UNIT)
    stamped = stamp(plain, trigger, jnp.ones(SAMPLES, bool))
    np.testing.assert_array_equal(batch.images[poisoned], stamped[poisoned])
    assert (batch.images[poisoned] != plain[poisoned]).any((1, 2, 3)).all()
    assert batch.labels[poisoned].tolist() == [3, 3]
    np.testing.assert_array_equal(batch.labels[~poisoned], data.labels[~poisoned])
    changed = (batch.images != plain).any((1, 2, 3))[~poisoned]
    # An augmentation of noise almost always shows.
    assert changed.sum() >= 15 if augmentation == "drop" else not changed.any()


@pytest.mark.parametrize("augmentation", ["none", "drop"])
def test_benign_clients_read_the_same_data_clean(augmentation):
    reader, data = poisoned_reader(augmentation, dpr=1.0)
    batch = read_all(reader, data, malicious=False)
    clean = read_all(reader._replace(poison=None), data)
    np.testing.assert_array_equal(batch.images, clean.images)
    np.testing.assert_array_equal(batch.labels, data.labels)


# ------------------------------------------------------- momentum beyond the round


@pytest.mark.parametrize(
    "name", ["none", "leadfl", "fl_wbc", pytest.param("ldp", marks=pytest.mark.slow)]
)
def test_momentum_given_on_is_that_of_one_long_run(name):
    """Two epochs at once, and one after the other with the buffer of the first."""
    make = CLIENT_DEFENSES[name].factory
    optimizer = training.sgd if name == "none" else make(reset="epoch").optimizer
    model = build("mlp", num_classes=CLASSES, image_shape=SHAPE, width=5)
    params, buffers = model.init(jax.random.key(1))
    data = make_data([range(9), range(9, 20)])

    @partial(quick_jit, static_argnames=("epochs", "first_epoch"))
    def run(params, buffers, momentum, epochs, first_epoch):
        return training.train_client(
            reader=PLAIN,
            work=LocalWork(4, epochs=epochs),
            gradient=training.batch_gradient(model, None),
            optimizer=optimizer(0.1, 0.9, 0.01),
            data=data,
            params=params,
            buffers=buffers,
            task=task(1),
            first_epoch=first_epoch,
            momentum=momentum,
        )

    zeros = jax.tree.map(jnp.zeros_like, params)
    whole, *_, last = run(params, buffers, zeros, 2, 0)
    half, moved, _, _, momentum = run(params, buffers, zeros, 1, 0)
    resumed, *_, end = run(half, moved, momentum, 1, 1)
    forgotten, *_ = run(half, moved, zeros, 1, 1)

    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, (resumed, end), (whole, last))
    flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    assert jnp.abs(flat(forgotten) - flat(whole)).max() > 1e-3
