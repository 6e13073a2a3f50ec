"""The smallest trigger that turns images: found, applied, and what does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.defenses.flip import trigger_inversion
from fedjax_sim.defenses.flip.trigger_inversion import Triggers, apply_triggers, invert

B, SHAPE, CLASSES = 12, (4, 4, 2), 3
IMAGES = jax.random.uniform(jax.random.key(0), (B, *SHAPE))
WEIGHTS = jax.random.normal(jax.random.key(1), (32, CLASSES))
WEIGHTS = WEIGHTS.at[:4].multiply(8.0)  # two pixels decide
TARGET = jnp.full(B, 2)
FIRST = jnp.zeros(B, jnp.int32)
ALL = jnp.ones(B, bool)


def logits(images):
    return (2 * images - 1).reshape(len(images), -1) @ WEIGHTS


def some_triggers(count, seed=2):
    first, second = jax.random.split(jax.random.key(seed))
    return Triggers(
        jax.random.uniform(first, (count, *SHAPE[:2]), minval=0.1),
        jax.random.uniform(second, (count, *SHAPE)),
    )


@jax.jit
def search(images, targets, member, valid, start, steps, success, cost, key):
    return invert(
        logits,
        images,
        targets,
        member,
        valid,
        start,
        steps=steps,
        cost=cost,
        success=success,
        average=start.mask.shape[0] == 1,
        key=key,
    )


def found(
    images=IMAGES,
    targets=TARGET,
    member=FIRST,
    valid=ALL,
    start=None,
    *,
    steps=150,
    success=0.9,
    cost=1e-2,
    seed=0,
):
    start = some_triggers(1) if start is None else start
    key = jax.random.key(seed)
    return search(images, targets, member, valid, start, steps, success, cost, key)


def test_every_image_gets_its_own_trigger():
    triggers, member = some_triggers(3), jnp.arange(B) % 3
    got = apply_triggers(IMAGES, triggers, member)

    for i in range(B):
        mask = np.asarray(triggers.mask[i % 3])[..., None]
        expected = (1 - mask) * IMAGES[i] + mask * triggers.pattern[i % 3]
        np.testing.assert_allclose(got[i], expected, rtol=1e-6)
    none = triggers._replace(mask=jnp.zeros_like(triggers.mask))
    np.testing.assert_array_equal(apply_triggers(IMAGES, none, member), IMAGES)


def test_encoding_there_and_back():
    triggers = some_triggers(2)
    back = trigger_inversion._decode(trigger_inversion._encode(triggers))
    for a, b in zip(back, triggers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_trigger_turns_as_many_images_as_asked():
    result = found()
    stamped = apply_triggers(IMAGES, result.triggers, FIRST)

    assert (logits(IMAGES).argmax(1) == 2).mean() < 0.6
    assert (logits(stamped).argmax(1) == 2).mean() >= 0.9
    np.testing.assert_allclose(result.size[0], result.triggers.mask.sum(), rtol=1e-5)
    assert result.size[0] < 0.7 * some_triggers(1).mask.sum()
    for part in result.triggers:
        assert part.min() >= -1e-6 and part.max() <= 1 + 1e-6
    assert result.loss_drop.shape == (B,)
    assert np.median(result.loss_drop) > 0


def test_a_longer_search_finds_no_larger_trigger():
    sizes = [float(found(steps=steps).size[0]) for steps in (40, 150, 300)]

    assert np.isfinite(sizes).all()
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


@pytest.mark.parametrize("end", [-20.0, 20.0])
def test_a_search_goes_on_from_ends_that_are_off_by_a_rounding(end):
    """Found triggers lie outside [0, 1] by 6e-8, where arctanh is infinite."""
    like = jax.tree.map(lambda x: jnp.full(x.shape, end), some_triggers(1))
    result = found(start=jax.jit(trigger_inversion._decode)(like))

    assert np.isfinite(result.loss_drop).all()
    for part in result.triggers:
        assert np.isfinite(part).all()


@pytest.mark.parametrize("options", [{"steps": 0}, {"success": 1.5}])
def test_without_success_there_is_no_trigger(options):
    result = found(**options)

    assert result.size[0] == np.inf
    for part in result.triggers:
        assert not part.any()


def test_images_that_do_not_count_have_no_influence():
    valid = jnp.arange(B) < 7
    clean = found(valid=valid)
    other = jnp.where(valid[:, None, None, None], IMAGES, 1.0 - IMAGES)
    dirty = found(other, jnp.where(valid, TARGET, 0), valid=valid)

    np.testing.assert_allclose(dirty.size, clean.size, rtol=1e-5)
    for a, b in zip(dirty.triggers, clean.triggers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert not np.asarray(clean.loss_drop)[7:].any()


def test_a_trigger_without_images_does_not_succeed():
    """Neither alone nor beside one that has all of them."""
    nobody = found(valid=jnp.zeros(B, bool))
    beside = found(start=some_triggers(2))

    assert nobody.size[0] == np.inf
    assert np.isfinite(beside.size).tolist() == [True, False]
    assert not beside.triggers.mask[1].any()


def test_two_triggers_side_by_side():
    """Half of the images to class 2, the other half to class 0."""
    member = jnp.arange(B) % 2
    targets = jnp.where(member == 0, 2, 0)
    result = found(targets=targets, member=member, start=some_triggers(2), success=0.8)
    answers = logits(apply_triggers(IMAGES, result.triggers, member)).argmax(1)

    hits = np.asarray(answers == targets)
    for own in (0, 1):
        assert hits[np.asarray(member) == own].mean() >= 0.8
    np.testing.assert_allclose(result.size, result.triggers.mask.sum((1, 2)), rtol=1e-5)


def test_a_small_mask_costs_more_where_masks_are_dear():
    """Success makes masks dearer: the cost is a matter of the beginning only."""
    cheap, dear = (float(found(steps=30, cost=c).size[0]) for c in (1e-4, 0.3))

    assert dear < cheap


def test_noise_follows_the_key():
    sizes = [float(found(seed=seed).size[0]) for seed in (0, 0, 1)]

    assert sizes[0] == sizes[1] != sizes[2]


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_shaken_triggers_stay_close_and_inside(key):
    triggers = Triggers(jnp.ones((1, 3, 3)), jnp.linspace(0, 1, 27).reshape(1, 3, 3, 3))
    shaken = trigger_inversion._shaken(triggers, key, jnp.int32(4))

    for new, old in zip(shaken, triggers, strict=True):
        assert new.min() >= 0 and new.max() <= 1
        assert np.abs(new - old).max() <= 0.01 + 1e-6
    assert (key is None) == bool((shaken.pattern == triggers.pattern).all())
