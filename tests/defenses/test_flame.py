"""FLAME: its bounds, its clipping and its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.flame import flame

# Five clients in one direction; two in another, one of them very long.
UPDATES = np.array(
    [[1, 0], [2, 0], [3, 0], [4, 0], [6, 0], [0, 5], [0, 50]], np.float32
)
CONTEXT = {"global_params": jnp.array([1.0, 0.0])}


def test_paper_clips_admitted_updates_to_the_median_norm(one_round, survivors):
    judged, result = one_round(flame(), UPDATES, context=CONTEXT)
    assert survivors(judged) == [0, 1, 2, 3, 4]
    # The median norm of all seven is 4.
    np.testing.assert_allclose(judged.scores["clip_bound"], np.full(7, 4.0))
    factors = judged.scores["clip_factor"][:5]
    np.testing.assert_allclose(factors, [1, 1, 1, 1, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(result.update, [14 / 5, 0], rtol=1e-6)


def test_authors_shrink_the_models_of_the_admitted(one_round, survivors):
    judged, result = one_round(
        flame(variant="authors"),
        UPDATES,
        buffers=np.ones((7, 1)),
        context=CONTEXT | {"global_buffers": jnp.zeros(1)},
    )
    assert survivors(judged) == [0, 1, 2, 3, 4]
    # The median norm of the five is 3: models 2, 3, 4, 5 * 3/4 and 7 / 2.
    np.testing.assert_allclose(judged.scores["clip_bound"], np.full(7, 3.0))
    models = np.array([2, 3, 4, 3.75, 3.5])
    np.testing.assert_allclose(1 + result.update[0], models.mean(), rtol=1e-6)
    np.testing.assert_allclose(result.buffers, [4.25 / 5], rtol=1e-6)


@pytest.mark.parametrize(
    "variant", ["paper", pytest.param("authors", marks=pytest.mark.slow)]
)
def test_noise_has_the_stated_deviation(make_cohort, make_context, make_spec, variant):
    d, b, sigma = 4000, 3000, 0.5
    updates = np.zeros((3, d))
    updates[:, 0] = [4.0, 4.0, 4.0]
    cohort = make_cohort(updates, buffers=np.ones((3, b)))
    defense = flame(variant=variant, noise_sigma=sigma)
    state = defense.init(make_spec(3, num_params=d, num_buffers=b))
    context = make_context(d, b)
    state, judged, result = defense.aggregate(state, cohort, context)
    model = GlobalModel(jnp.zeros(d), result.buffers)
    draws = [
        defense.after(state, model, judged, context._replace(key=jax.random.key(k)))[1]
        for k in range(2)
    ]
    std = sigma * 4 if variant == "paper" else (sigma * 4) ** 2
    for noisy in draws:
        np.testing.assert_allclose(noisy.params.std(), std, rtol=0.05)
        assert abs(noisy.params.mean()) < 0.1 * std
    assert abs(np.corrcoef(draws[0].params, draws[1].params)[0, 1]) < 0.1
    change = draws[0].buffers - model.buffers
    if variant == "paper":
        assert not np.asarray(change).any()
    else:
        np.testing.assert_allclose(change.std(), std, rtol=0.05)
        assert abs(np.corrcoef(change, draws[0].params[:b])[0, 1]) < 0.1


def test_no_noise_without_sigma(make_cohort, make_context, make_spec):
    defense = flame(noise_sigma=0.0)
    state = defense.init(make_spec(3, num_params=2))
    context = make_context(2)
    state, judged, _ = defense.aggregate(state, make_cohort(UPDATES[:3]), context)
    model = GlobalModel(jnp.ones(2), jnp.zeros(0))
    _, after = defense.after(state, model, judged, context)
    np.testing.assert_array_equal(after.params, model.params)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"noise_sigma = -1 must be at least 0"):
        flame(noise_sigma=-1)
    with pytest.raises(InputError, match="did you mean 'models'"):
        flame(features="model")
