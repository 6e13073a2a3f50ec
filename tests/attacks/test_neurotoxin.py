"""Neurotoxin: which coordinates are left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_spec, make_tools, quick_jit

from fedjax_sim.attacks.neurotoxin import blocked, neurotoxin
from fedjax_sim.attacks.parts.projection import norm
from fedjax_sim.core.errors import InputError
from fedjax_sim.numerics.flat import flat_layout, ravel

TREE = {"a": jnp.zeros(150), "b": jnp.zeros((5, 10))}
LAYOUT = flat_layout(TREE)
UPDATE = jax.random.normal(jax.random.key(0), (200,))


def watched(attack, *models):
    state = attack.init(make_spec(layout=LAYOUT))
    for index, model in enumerate(models):
        state = attack.observe(state, jnp.int32(index + 1), model)
    return state


def moved(attack, state) -> np.ndarray:
    """bool [d]: the coordinates that the masked gradient moves."""
    masked = quick_jit(
        lambda state: attack.local_transform(state, LAYOUT).update(
            jax.tree.map(jnp.ones_like, TREE), ()
        )[0]
    )
    return np.asarray(ravel(masked(state))) == 1


@pytest.mark.parametrize(
    ("top_k", "count"), [(0.0, 0), (0.004, 0), (0.253, 50), (1, 200)]
)
def test_count_is_a_floor(top_k, count):
    assert blocked(UPDATE, top_k).sum() == count
    assert blocked(UPDATE, jnp.float32(top_k)).sum() == count


def test_largest_moves_are_blocked_and_still_ones_never():
    reference = jnp.where(jnp.arange(200) < 10, UPDATE, 0.0)
    chosen = blocked(reference, 0.5)
    assert chosen[:10].all() and not chosen[10:].any()


def test_mask_follows_the_last_global_update():
    attack = neurotoxin(top_k=0.1)
    start = jnp.full(200, 3.0)
    assert moved(attack, watched(attack, start)).all()
    state = watched(attack, start, start - 1.0, start - 1.0 + UPDATE)
    left_alone = np.argsort(-np.abs(np.asarray(UPDATE)))[:20]
    np.testing.assert_array_equal(
        np.flatnonzero(~moved(attack, state)), np.sort(left_alone)
    )


def test_per_layer_takes_the_fraction_of_each():
    attack = neurotoxin(top_k=0.1, per_layer=True)
    state = watched(
        attack, jnp.zeros(200), UPDATE * jnp.where(jnp.arange(200) < 150, 1, 9)
    )
    kept = moved(attack, state)
    assert (~kept[:150]).sum() == 15 and (~kept[150:]).sum() == 5


def test_norm_bound_ends_the_chain():
    assert neurotoxin().local_stages is None
    tools = make_tools()
    (stage,) = neurotoxin(norm_bound=0.3).local_stages(tools)
    params = tools.global_params
    state = stage.optimizer.init(params)
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = stage.optimizer.update(gradient, state, params, epoch_start=True)
    np.testing.assert_allclose(norm(updates), 0.3, rtol=1e-5)
    assert stage.epochs == tools.epochs and stage.gradient is tools.gradient


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 1.2}, r"top_k = 1\.2"),
        ({"norm_bound": 0.0}, r"norm_bound = 0\.0"),
        ({"trigger": "none"}, "trigger = 'none'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        neurotoxin(**options)
