"""Chameleon: the contrastive loss, its schedule, and who moves when."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attacks.views import make_batch, make_tools, quick_jit

from fedjax_sim.attacks.chameleon import (
    chameleon,
    scale_by_epoch,
    supervised_contrastive_loss,
)
from fedjax_sim.attacks.parts.projection import norm
from fedjax_sim.core.errors import InputError

LABELS = jnp.array([0, 1, 0, 2, 1, 0])


def unit_features(seed=0, n=6):
    features = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return jnp.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def loss(features, labels, mask, scale_weight=1.0, facilitator=1):
    return supervised_contrastive_loss(
        features,
        labels,
        mask,
        facilitator=facilitator,
        scale_weight=scale_weight,
        temperature=0.5,
    )


quick_loss = quick_jit(loss)


def test_padding_has_no_influence():
    features = unit_features()
    short = quick_loss(features[:5], LABELS[:5], jnp.ones(5, bool))
    padded = quick_loss(features, LABELS, jnp.arange(6) < 5)
    np.testing.assert_allclose(padded, short, rtol=1e-6)
    assert padded != quick_loss(features, LABELS, jnp.ones(6, bool))


def test_weight_of_the_facilitators():
    """They are two of six samples; the weight multiplies their part alone."""
    features, mask = unit_features(), jnp.ones(6, bool)
    one, two, four = (quick_loss(features, LABELS, mask, w) for w in (1.0, 2.0, 4.0))
    np.testing.assert_allclose(four - one, 3 * (two - one), rtol=1e-4)
    assert two > one
    nobody = quick_loss(features, LABELS, mask, 4.0, facilitator=9)
    np.testing.assert_allclose(nobody, one, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_samples_without_positives_add_nothing(count):
    labels = jnp.arange(6)
    value, grads = quick_jit(jax.value_and_grad(loss))(
        unit_features(), labels, jnp.arange(6) < count
    )
    assert value == 0 and not grads.any()


def test_pulling_a_class_together_lowers_the_loss():
    mask = jnp.ones(6, bool)
    centers = unit_features(3, 3)
    pulled = quick_loss(centers[LABELS], LABELS, mask)
    assert pulled < quick_loss(unit_features(), LABELS, mask)


def test_learning_rate_falls_at_the_milestones():
    optimizer = scale_by_epoch((1, 3), 0.1)
    state = optimizer.init(())
    scales = []
    for start in [True, False] * 4:
        step, state = optimizer.update(
            jnp.float32(1), state, epoch_start=jnp.bool_(start)
        )
        scales.append(float(step))
    np.testing.assert_allclose(
        scales, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5
    )


def trained(stage, tools, steps=3):
    params, state = tools.global_params, stage.optimizer.init(tools.global_params)
    update = quick_jit(
        lambda params, state: stage.optimizer.update(
            stage.gradient(params, {}, make_batch())[2], state, params, epoch_start=True
        )
    )
    for _ in range(steps):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(jnp.subtract, params, tools.global_params)


def test_encoder_moves_first_and_the_last_layer_afterwards():
    """In spite of weight decay and momentum in both."""
    tools = make_tools()
    adapt, teach = chameleon().local_stages(tools)
    for stage, moving in ((adapt, {"fc1"}), (teach, {"fc2"})):
        moved = trained(stage, tools)
        assert {name for name, leaves in moved.items() if norm(leaves) > 0} == moving
    assert (adapt.epochs, teach.epochs) == (tools.epochs, tools.epochs)


def test_options_of_the_stages():
    tools = make_tools()
    adapt, teach = chameleon(
        contrastive_epochs=5, classifier_epochs=3, projection_radius=1e-3
    ).local_stages(tools)
    assert (adapt.epochs, teach.epochs) == (5, 3)
    np.testing.assert_allclose(norm(trained(adapt, tools)), 1e-3, rtol=1e-2)


def test_contrastive_steps_lower_the_contrastive_loss():
    tools = make_tools()
    adapt, _ = chameleon().local_stages(tools)
    value = quick_jit(lambda params: adapt.gradient(params, {}, make_batch())[0])
    after = jax.tree.map(jnp.add, tools.global_params, trained(adapt, tools, 5))
    assert value(after) < value(tools.global_params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"projection_radius": -1.0}, "projection_radius"),
        ({"contrastive_epochs": 0}, "contrastive_epochs = 0"),
        ({"victim_class": 7}, "victim_class = 7"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        chameleon(**options)
