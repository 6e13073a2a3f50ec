"""What attacks and defences may change besides the server step, seam by seam."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import build, digits, spied, spy, start_state

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.attack import Attack, LocalStage, Poison, PoisonDecision
from fedjax_sim.contracts.client import ClientSide, ClientTraining
from fedjax_sim.contracts.defense import RootRequest, Stage
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.metrics import evaluation as metrics
from fedjax_sim.round.training import batch_gradient

EVERYBODY = {
    "participation.clients_per_round": 6,
    "attack.malicious_clients": "last",
}
BATCHES = 3  # of an epoch: 33 samples of a client, 16 in a batch


@pytest.fixture
def register(monkeypatch):
    """Returns a function that adds an attack or a defence of a test by name."""

    def add(name, *, attack=None, defense=None):
        if attack is not None:
            monkeypatch.setitem(ATTACKS, name, Entry(lambda: attack, "-"))
        if defense is not None:
            entry = Entry(lambda: defense, "-", "none")
            monkeypatch.setitem(DEFENSES, name, entry)

    return add


def first_round(built, state=None):
    state = start_state(built) if state is None else state
    return jax.jit(built.round_step)(state, built.inputs)


# ------------------------------------------------------------- malicious local work


def epoch_labels(spec):
    """The label of every sample of a malicious client is the number of the epoch."""

    def decide(plan, sample_ids, labels, context):
        del plan, sample_ids
        poisoned = jnp.broadcast_to(context.malicious, labels.shape)
        labels = jnp.where(poisoned, context.epoch, labels)
        return PoisonDecision(poisoned, labels, jnp.int32(0))

    return Poison(None, (), decide)


def label_gradient(params, buffers, batch):
    """1 + the label in every coordinate; the loss is 5 a sample."""
    grads = jax.tree.map(lambda x: jnp.full_like(x, 1.0 + batch.labels[0]), params)
    return 5.0 * batch.mask.sum(), buffers, grads


def test_local_stages_run_one_after_the_other(register):
    """Epochs 0 and 1, then 2: each with its own rate, momentum starts afresh.

    First stage, rate 1, no momentum: 3 steps of 1 and 3 of 2. Second stage, rate 0.1,
    momentum 1, 3 steps of 3: 3 + 6 + 9.
    """
    asked = []

    def stages(tools):
        asked.append(tools)
        plain = optax.with_extra_args_support(optax.sgd(1.0))
        heavy = optax.with_extra_args_support(optax.sgd(0.1, momentum=1.0))
        return (
            LocalStage(2, label_gradient, plain),
            LocalStage(1, label_gradient, heavy),
        )

    attack = Attack(
        knowledge=("own_data",),
        init=lambda spec: jnp.float32(7),
        poison=epoch_labels,
        local_stages=stages,
    )
    register("staged", attack=attack)
    register("spy", defense=spy())
    built = build({"attack.name": "staged", "defense.name": "spy", **EVERYBODY})
    clean = build({"attack.name": "none", "defense.name": "spy", **EVERYBODY})
    state, report = first_round(built)
    expected, clean_report = first_round(clean)

    sent, benign = spied(state), spied(expected)
    step = -(3 * 1 + 3 * 2) - 0.1 * (3 + 6 + 9)
    np.testing.assert_allclose(sent[4:], np.full_like(sent[4:], step), rtol=1e-5)
    np.testing.assert_allclose(sent[:4], benign[:4], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(report.losses[4:], 5.0, rtol=1e-6)
    np.testing.assert_allclose(report.losses[:4], clean_report.losses[:4], rtol=1e-5)
    tools = asked[-1]
    assert (tools.epochs, tools.model.name) == (1, "mlp")
    assert tools.hyper.learning_rate.shape == ()
    assert tools.state.shape == ()


def test_attackers_that_train_nothing_and_fakes_without_data(register):
    """Two genuine and two fake attackers: their rows are zero before they craft."""

    def craft(state, view):
        del state
        norms = jnp.linalg.norm(view.updates, axis=1)
        return jnp.stack([norms, view.malicious], 1), jnp.full_like(view.updates, 7.0)

    attack = Attack(
        knowledge=("benign_updates",),
        init=lambda spec: jnp.zeros((8, 2)),
        craft=craft,
        trains=False,
    )
    register("idle", attack=attack)
    register("spy", defense=spy())
    changes = {**EVERYBODY, "participation.clients_per_round": 8}
    built = build(
        {"attack.name": "idle", "attack.num_fake": 2, "defense.name": "spy", **changes}
    )
    state, report = first_round(built)

    assert built.facts["malicious_clients"] == [4, 5, 6, 7]
    np.testing.assert_array_equal(built.inputs.data.counts, [33] * 6 + [0] * 2)
    np.testing.assert_array_equal(report.client_ids, np.arange(8))
    norms, malicious = np.asarray(state.attack).T
    np.testing.assert_array_equal(malicious, [0] * 4 + [1] * 4)
    assert (norms[:4] > 0).all() and (norms[4:] == 0).all()
    assert (spied(state)[4:] == 7.0).all()
    np.testing.assert_array_equal(np.isnan(report.losses), malicious)
    np.testing.assert_array_equal(report.malicious, malicious)


def test_fakes_of_an_attack_that_needs_data():
    with pytest.raises(InputError, match="num_fake = 2: fake clients"):
        build({"attack.num_fake": 2})


# ----------------------------------------------------------------- the server's data


def rooted(request, **changes):
    """A defence whose state is (images, labels, model trained on them)."""

    def init(spec):
        m, d = request.num_samples, spec.layout.size
        shape = (m, *spec.network.image_shape)
        return jnp.zeros(shape), jnp.zeros(m, jnp.int32), jnp.zeros(d)

    def apply(state, cohort, context):
        root = context.root
        model = GlobalModel(context.global_params, context.global_buffers)
        trained = root.train(model, training_key())
        return (root.images, root.labels, trained.params), cohort

    return pipeline(Stage(init, apply), root=request, **changes)


def training_key():
    """That of client 0 in round 1 of seed 0."""
    key = stream(jax.random.key(0), Purpose.LOCAL_TRAINING, 1)
    return jax.random.fold_in(key, 0)


def positions(images):
    """Which training images these are; each is there once."""
    all_ = normalize(digits().train_images, normalization("half", 1))
    apart = np.abs(np.asarray(images)[:, None] - np.asarray(all_)[None])
    same = apart.max((2, 3, 4)) < 1e-6
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


def root_state(state):
    (found,), _ = state.defense
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("momentum", "weight_decay"),
    [pytest.param(None, None, marks=pytest.mark.slow), (0.0, 0.01)],
    ids=["clients'", "own"],
)
def test_training_on_root_data_is_that_of_a_client(register, momentum, weight_decay):
    """A federation of that one client, who owns the server's samples."""
    request = RootRequest(20, momentum=momentum, weight_decay=weight_decay)
    register("rooted", defense=rooted(request))
    work = {"client.epochs": 2, "data.augmentation": "crop_flip"}
    built = build({"defense.name": "rooted", "attack.name": "none", **work})
    state, _ = first_round(built)
    alone = build(
        {
            "partition.num_clients": 1,
            "participation.clients_per_round": 1,
            "attack.name": "none",
            "attack.num_malicious": 0,
            **({} if momentum is None else {"client.momentum": momentum}),
            **({} if weight_decay is None else {"client.weight_decay": weight_decay}),
            **work,
        }
    )
    alone = alone._replace(inputs=alone.inputs._replace(data=built.inputs.root.train))
    expected, _ = first_round(alone)

    *_, trained = root_state(state)
    np.testing.assert_allclose(trained, expected.params, rtol=1e-5, atol=1e-6)
    assert np.abs(trained - start_state(built).params).max() > 1e-2


def test_root_samples_are_distinct_training_samples(register):
    register("rooted", defense=rooted(RootRequest(20)))
    built = build({"defense.name": "rooted"})
    state, _ = first_round(built)
    images, labels, _ = root_state(state)

    chosen = positions(images)
    assert len(set(chosen)) == 20
    np.testing.assert_array_equal(labels, digits().train_labels[chosen])
    assert sorted(chosen) != list(range(20))
    other = build({"defense.name": "rooted", "seed": 1})
    assert not np.array_equal(other.inputs.root.images, built.inputs.root.images)


@pytest.mark.parametrize(("wanted", "sizes"), [(30, {3}), (34, {3, 4})])
def test_balanced_root_data(register, wanted, sizes):
    register("rooted", defense=rooted(RootRequest(wanted, balanced=True)))
    labels = build({"defense.name": "rooted"}).inputs.root.train.labels

    assert len(labels) == wanted
    assert set(np.bincount(labels, minlength=10)) == sizes


def test_balanced_root_data_of_exhausted_classes(register):
    """Every sample of the data set: no class can give more than it has."""
    register("rooted", defense=rooted(RootRequest(200, balanced=True)))
    labels = build({"defense.name": "rooted"}).inputs.root.train.labels

    np.testing.assert_array_equal(
        np.bincount(labels), np.bincount(digits().train_labels)
    )


def test_root_data_is_augmented_once_and_for_all(register):
    """What the rule sees; the server's training augments for itself, as clients do."""
    seen = {}
    for augmented in (False, True):
        register("rooted", defense=rooted(RootRequest(20, augmented=augmented)))
        for name in ("none", "crop_flip"):
            built = build({"defense.name": "rooted", "data.augmentation": name})
            seen[augmented, name] = built.inputs.root
    plain = seen[False, "none"]

    for case, root in seen.items():
        np.testing.assert_array_equal(root.train.images, plain.train.images)
        np.testing.assert_array_equal(root.train.labels, plain.train.labels)
        changed = (root.images != plain.images).any((1, 2, 3))
        assert changed.sum() >= 15 if case == (True, "crop_flip") else not changed.any()


def test_more_root_samples_than_there_are(register):
    register("rooted", defense=rooted(RootRequest(201)))
    with pytest.raises(InputError) as problem:
        build({"defense.name": "rooted"})

    assert str(problem.value) == (
        "config.defense.name = 'rooted' asks for 201 clean samples of the server, but "
        "the training data has 200"
    )


def test_the_first_model_may_come_from_the_server(register):
    begin = lambda model, root, key: GlobalModel(
        model.params + root.labels.sum(), model.buffers
    )
    register("rooted", defense=rooted(RootRequest(5), start=begin))
    built, plain = build({"defense.name": "rooted"}), build()
    offset = built.inputs.root.train.labels.sum()

    np.testing.assert_allclose(
        start_state(built).params, start_state(plain).params + offset, rtol=1e-6
    )


# ------------------------------------------------------------ what clients remember


def test_clients_remember_and_may_leave_batches_out(register):
    """Each batch adds one to a counter; after the second there are no more steps."""

    def gradient(network, normalization):
        plain = batch_gradient(network.model, None)

        def of_batch(params, buffers, batch, memory, round_, key):
            del round_, key
            loss, buffers, grads = plain(params, buffers, batch)
            grads = jax.tree.map(jnp.ones_like, grads)
            return loss, buffers, grads, memory + 1, memory < 2

        return of_batch

    counting = ClientTraining(
        init=lambda spec: jnp.zeros(spec.population, jnp.int32), gradient=gradient
    )
    register("counting", defense=pipeline(client_side=ClientSide(training=counting)))
    built = build(
        {
            "defense.name": "counting",
            "client.momentum": 0.0,
            "execution.clients": "chunk:3",
        }
    )
    malicious = np.asarray(built.inputs.malicious)
    state, size = start_state(built), built.parts.spec.layout.size
    step = jax.jit(built.round_step)
    times = np.zeros(6, int)
    for _ in range(3):
        new_to_it = times == 0
        state, report = step(state, built.inputs)
        ids = np.asarray(report.client_ids)
        times[ids] += 1
        np.testing.assert_array_equal(
            state.clients, np.where(malicious, 0, BATCHES * times)
        )
        expected = np.where(new_to_it[ids], 2 * 0.1 * size**0.5, 0.0)
        benign = ~malicious[ids]
        norms = report.update_norms[benign]
        np.testing.assert_allclose(norms, expected[benign], rtol=1e-5)
    assert (times > 1).any()


def test_clients_may_start_from_models_of_their_own(register):
    """Client 2 from twice the global model; updates count from there."""

    def broadcast(state, model, client):
        del state
        factor = jnp.where(client == 2, 2.0, 1.0)
        return model._replace(params=factor * model.params)

    register("spy", defense=spy())
    register("partial", defense=spy()._replace(broadcast=broadcast))
    changes = {"attack.name": "none", **EVERYBODY}
    built = build({"defense.name": "partial", **changes})
    plain = build({"defense.name": "spy", **changes})
    step = jax.jit(plain.round_step)
    start = start_state(plain)
    sent = spied(first_round(built)[0])
    usual = spied(step(start, plain.inputs)[0])
    doubled = spied(
        step(start._replace(params=2 * start.params), plain.inputs)[0],
    )

    others = np.arange(6) != 2
    np.testing.assert_allclose(sent[others], usual[others], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sent[2], doubled[2], rtol=1e-4, atol=1e-6)
    assert np.abs(sent[2] - usual[2]).max() > 1e-2


# ------------------------------------------------------------------- learning rate


def test_schedule_of_the_learning_rate():
    """Round 3 of 3 with a tenth of the rate is a round with that rate."""
    scheduled = build({"client.schedule": "step", "rounds": 3})
    tenth = build({"client.lr": 0.01, "rounds": 3})
    step = jax.jit(scheduled.round_step)
    usual = jax.jit(tenth.round_step)
    start = start_state(scheduled)

    for done, built in ((1, build({"rounds": 3})), (2, tenth)):
        state = start._replace(round=jnp.int32(done))
        expected, _ = usual(state, built.inputs)
        found, _ = step(state, scheduled.inputs)
        np.testing.assert_allclose(found.params, expected.params, rtol=1e-5, atol=1e-7)


# --------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("flag", [False, True])
def test_batch_statistics_at_evaluation(monkeypatch, flag):
    """What they are is a test of the metrics; here, that the config is heard."""
    built = build({"evaluation.batch_statistics": flag})
    heard = []

    def evaluate(*arguments, **options):
        bound = inspect.signature(original).bind(*arguments, **options)
        heard.append(bound.arguments["batch_statistics"])
        return {}

    original = metrics.evaluate
    monkeypatch.setattr(metrics, "evaluate", evaluate)
    built.evaluate(start_state(built), built.inputs, built.test_sets)

    assert heard == [flag]
