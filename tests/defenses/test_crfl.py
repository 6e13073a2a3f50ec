"""CRFL: clipping, noise and the vote of noisy copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.crfl import clip_model, crfl, vote


def test_long_models_are_clipped_and_short_ones_stay():
    params = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(clip_model(params, 1.0), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(clip_model(params, 5.5), params)


@pytest.fixture
def after(make_cohort, make_context, make_spec):
    """Returns a function to the state and the model after a round of FedAvg."""

    def run(defense, params, round_=1):
        d = len(params)
        state = defense.init(make_spec(2, num_params=d))
        context = make_context(d, round_=round_)._replace(global_params=jnp.zeros(d))
        cohort = make_cohort(np.tile(params, (2, 1)))
        state, judged, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(result.update, result.buffers)
        return defense.after(state, model, judged, context)

    return run


@pytest.mark.parametrize(("round_", "bound"), [(1, 2.0), (3, 3.0), (50, 4.0)])
def test_the_bound_grows_to_its_cap(after, round_, bound):
    defense = crfl(clip_slope=0.5, clip_cap=4.0, noise_sigma=0.0)
    _, model = after(defense, np.array([30.0, 40.0]), round_)
    np.testing.assert_allclose(jnp.linalg.norm(model.params), bound, rtol=1e-6)


def test_noise_has_its_deviation_and_is_fresh_in_every_round(after):
    defense = crfl(noise_sigma=0.5)
    _, first = after(defense, np.zeros(5000))
    _, second = after(defense, np.zeros(5000), round_=2)
    np.testing.assert_allclose(first.params.std(), 0.5, rtol=0.05)
    assert abs(np.corrcoef(first.params, second.params)[0, 1]) < 0.1


def test_prediction_takes_off_the_noise_of_training(after, make_network):
    network = make_network()
    params = np.random.default_rng(0).normal(size=network.layout.size)
    images = jax.random.normal(jax.random.key(1), (50, *network.image_shape))
    defense = crfl(clip_start=100.0, clip_cap=100.0, noise_sigma=1.0, num_votes=0)
    state, model = after(defense, params)
    plain = network.logits(jnp.asarray(params, jnp.float32), model.buffers, images)
    noisy = network.logits(*model, images)
    answers = defense.predict(state, model, network, images)
    np.testing.assert_array_equal(answers, plain.argmax(-1))
    assert (noisy.argmax(-1) != plain.argmax(-1)).any()


def test_the_vote_is_a_majority(make_network):
    network = make_network()
    key = jax.random.key(2)
    params = jax.random.normal(key, (network.layout.size,))
    images = jax.random.normal(key, (40, *network.image_shape))
    model = GlobalModel(params, jnp.zeros(0))
    counts = np.zeros((40, 2))
    for i in range(25):
        noise = jax.random.normal(jax.random.key(i), params.shape)
        logits = network.logits(params + 0.8 * noise, model.buffers, images)
        counts[np.arange(40), logits.argmax(-1)] += 1
    answers = jax.jit(lambda images: vote(network, model, images, 0.8, 25))(images)
    np.testing.assert_array_equal(answers, counts.argmax(-1))
    assert 0 < answers.mean() < 1
    one = vote(network, model, images, 0.8, 1)
    assert (one != answers).any()


@pytest.mark.parametrize(
    ("key", "value"), [("clip_start", 0), ("noise_sigma", -1), ("num_votes", -1)]
)
def test_bad_arguments_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        crfl(**{key: value})
