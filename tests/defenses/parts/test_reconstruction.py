"""Reconstruction of updates: when each client stops, and that clients never meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_bits

from fedjax_sim import models
from fedjax_sim.contracts.model import Network
from fedjax_sim.defenses.parts.reconstruction import (
    DistilledKnowledge,
    Rates,
    ReconstructionState,
    inner_steps,
    known,
    reconstruct,
    reconstruction_error,
)
from fedjax_sim.numerics.flat import ravel

SHAPE, CLASSES, STEPS, N = (3, 3, 1), 2, 2, 7
THRESHOLD = 0.5
RATES = Rates(images=0.3, labels=0.3, rate=1e-3)


@pytest.fixture(autouse=True)
def implicit_ranks(explicit_ranks):
    """Lets the layers of the network broadcast as they do."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def network():
    model = models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, width=4)
    return Network.of(model, SHAPE, CLASSES)


def knowledge(seed, *leading):
    first, second = jax.random.split(jax.random.key(seed))
    return DistilledKnowledge(
        jax.random.normal(first, (*leading, CLASSES, *SHAPE)),
        jax.random.normal(second, (*leading, CLASSES, CLASSES)),
        jnp.full(leading, 0.3),
    )


@pytest.fixture(scope="module")
def params(network):
    return 0.5 * jax.random.normal(jax.random.key(1), (network.layout.size,))


@pytest.fixture(scope="module")
def start():
    """The first client is known already, the others begin with the same noise."""
    noise, answer = knowledge(2), knowledge(3, 3)
    return jax.tree.map(lambda x, y: jnp.stack([y[0], *[x] * (N - 1)]), noise, answer)


@pytest.fixture(scope="module")
def updates(network, params):
    """Three that a few images explain, the others noise of about the same length."""
    explained = jax.vmap(
        lambda k: ravel(inner_steps(network, params, k, STEPS)[-1]) - params
    )(knowledge(3, 3))
    noise = jax.random.normal(jax.random.key(4), (N - 3, network.layout.size))
    return jnp.concatenate([explained, 0.02 * noise])


@pytest.fixture(scope="module")
def run(network, params):
    """Reconstructs; one compilation for each number of clients side by side."""

    def make(stack, stops=True, block=3):
        @jax.jit
        def call(updates, start, limits, threshold):
            return reconstruct(
                network,
                params,
                updates,
                start,
                limits=limits,
                threshold=threshold if stops else None,
                rates=RATES,
                steps=STEPS,
                stack=stack,
                block=block,
            )

        return call

    return {
        "one": make(1),
        "three": make(3),
        "all": make(16),
        "three to the limit": make(3, stops=False),
    }


LIMITS = jnp.array([40, 40, 1, 40, 7, 0, 12])


def assert_close(found, expected, rtol=1e-4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5),
        found,
        expected,
    )


def test_some_clients_pass_at_once_some_later_some_never(run, updates, start):
    found = run["one"](updates, start, jnp.full(N, 40), THRESHOLD)
    passed = np.asarray(found.error) < THRESHOLD

    np.testing.assert_array_equal(passed, [1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(
        found.iterations[jnp.array([0, 3, 4, 5, 6])], [1] + [40] * 4
    )
    assert ((found.iterations[1:3] > 1) & (found.iterations[1:3] < 40)).all()


@pytest.mark.parametrize("stack", ["three", "all"])
def test_clients_side_by_side_change_nothing(run, updates, start, stack):
    alone = run["one"](updates, start, LIMITS, THRESHOLD)
    beside = run[stack](updates, start, LIMITS, THRESHOLD)

    np.testing.assert_array_equal(beside.iterations, alone.iterations)
    assert_close(beside, alone)


def test_a_plain_loop_finds_the_same(network, params, run, updates, start):
    """Algorithm 1, word by word."""
    evaluate = jax.jit(
        jax.value_and_grad(
            lambda k, u: reconstruction_error(network, params, u, k, STEPS)
        )
    )
    found = run["three"](updates, start, LIMITS, THRESHOLD)
    for i in range(N):
        own = jax.tree.map(lambda x, i=i: x[i], start)
        velocity, count = jax.tree.map(jnp.zeros_like, own), 0
        error, _ = evaluate(own, updates[i])
        for _ in range(LIMITS[i]):
            error, gradient = evaluate(own, updates[i])
            count += 1
            if error < THRESHOLD:
                break
            velocity = jax.tree.map(lambda v, g: 0.5 * v + g, velocity, gradient)
            own = DistilledKnowledge(
                *(x - r * v for x, r, v in zip(own, RATES[:3], velocity, strict=True))
            )
        assert int(found.iterations[i]) == count
        assert_close(found.error[i], error, rtol=1e-3)
        assert_close(jax.tree.map(lambda x, i=i: x[i], found.knowledge), own, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["one", "three"])
def test_a_limit_of_zero_only_evaluates(network, params, run, updates, start, stack):
    found = run[stack](updates, start, jnp.zeros(N, int), THRESHOLD)
    expected = jax.vmap(
        lambda k, u: reconstruction_error(network, params, u, k, STEPS)
    )(start, updates)

    np.testing.assert_array_equal(found.iterations, np.zeros(N))
    assert_close(found.error, expected)
    assert_same_bits(found.knowledge, start)


@pytest.mark.parametrize("stack", ["one", "three"])
def test_who_passes_at_once_counts_one_and_learns_nothing(run, updates, start, stack):
    found = run[stack](updates, start, LIMITS, 1e9)

    np.testing.assert_array_equal(found.iterations, np.minimum(LIMITS, 1))
    assert_same_bits(found.knowledge, start)


def test_who_knows_the_answer_passes_at_once(network, params, run, start, updates):
    """As in later rounds: the knowledge of the last one explains the update."""
    known_ = jax.tree.map(lambda a, b: a.at[:3].set(b), start, knowledge(3, 3))
    found = run["three"](updates, known_, jnp.full(N, 5), 1e-3)

    np.testing.assert_array_equal(found.iterations, [1, 1, 1, 5, 5, 5, 5])
    assert (np.asarray(found.error)[:3] < 1e-6).all()


def test_without_a_threshold_everybody_runs_to_the_limit(run, updates, start):
    found = run["three to the limit"](updates, start, LIMITS, 0.0)
    stopping = run["three"](updates, start, LIMITS, 0.0)

    np.testing.assert_array_equal(found.iterations, LIMITS)
    assert_close(found, stopping)


@pytest.mark.parametrize("stack", ["one", "three", "three to the limit"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0.0])
def test_bad_updates_end_and_disturb_nobody(run, updates, start, stack, value):
    clean = run[stack](updates, start, LIMITS, THRESHOLD)
    found = run[stack](updates.at[3].set(value), start, LIMITS, THRESHOLD)
    others = np.arange(N) != 3
    rest = lambda found: jax.tree.map(lambda x: x[others], found)

    assert_close(rest(found), rest(clean))
    assert not found.error[3] <= THRESHOLD
    assert 1 <= found.iterations[3] <= 40
    if np.isnan(value):
        assert found.iterations[3] == 1
        assert_same_bits(
            jax.tree.map(lambda x: x[3], found.knowledge),
            jax.tree.map(lambda x: x[3], start),
        )


def test_order_of_clients_does_not_matter(run, updates, start):
    order = np.random.default_rng(0).permutation(N)
    found = run["three"](updates, start, LIMITS, THRESHOLD)
    shuffled = lambda tree: jax.tree.map(lambda x: x[order], tree)
    moved = run["three"](updates[order], shuffled(start), LIMITS[order], THRESHOLD)

    assert_close(moved, shuffled(found))


def test_known_is_the_common_start_until_a_client_was_seen():
    state = ReconstructionState(
        start=knowledge(0),
        knowledge=knowledge(1, 4),
        seen=jnp.array([True, False, True, False]),
        expelled=jnp.zeros(4, bool),
    )
    found = known(state, jnp.array([3, 2]))

    assert_same_bits(jax.tree.map(lambda x: x[0], found), state.start)
    assert_same_bits(
        jax.tree.map(lambda x: x[1], found),
        jax.tree.map(lambda x: x[2], state.knowledge),
    )


def test_the_loss_of_the_paper_is_the_classes_times_as_large(network, params):
    """So one step at rate a / K is the same as the coded one at a."""
    coded = knowledge(3)
    printed = coded._replace(rate=coded.rate / CLASSES)
    first = ravel(inner_steps(network, params, coded, 1)[0])
    second = ravel(inner_steps(network, params, printed, 1, "paper")[0])
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)


def test_the_variant_of_the_paper_evaluates_after_the_last_update(
    network, params, start, updates
):
    """At a limit of two the coded error is one update behind the knowledge."""
    options = {
        "limits": jnp.full(N, 2),
        "threshold": None,
        "rates": RATES._replace(momentum=0.0),
        "steps": STEPS,
        "stack": 1,
    }
    found = reconstruct(network, params, updates, start, variant="paper", **options)
    for i in range(N):
        own = jax.tree.map(lambda x, i=i: x[i], found.knowledge)
        wanted = reconstruction_error(network, params, updates[i], own, STEPS, "paper")
        np.testing.assert_allclose(found.error[i], wanted, rtol=1e-5)


@pytest.mark.slow
def test_a_network_with_batch_statistics_can_be_reconstructed():
    """By those of the synthetic images: its own training is explained to the bit."""
    model = models.build("leadfl_fashion", num_classes=CLASSES, image_shape=(28, 28, 1))
    network = Network.of(model, (28, 28, 1), CLASSES)
    assert network.buffer_layout.size
    params = ravel(model.init(jax.random.key(0))[0])
    first, second = jax.random.split(jax.random.key(5))
    images = jax.random.normal(first, (CLASSES, 28, 28, 1))
    labels = jax.random.normal(second, (CLASSES, CLASSES))
    known = DistilledKnowledge(images, labels, jnp.float32(0.3))
    update = ravel(inner_steps(network, params, known, 1)[-1]) - params
    other = known._replace(images=-images)
    error = jax.jit(lambda k: reconstruction_error(network, params, update, k, 1))
    assert error(known) < 1e-6 < 0.1 < error(other)
