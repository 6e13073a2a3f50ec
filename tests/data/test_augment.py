"""Augmentation against Pillow, and as a random function of its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from fedjax_sim.data.augment import AUGMENTATIONS, Augmentation, augment, transform

SIZES = [(32, 32, 3), (28, 28, 1), (7, 10, 3)]


def _images(shape, batch=1):
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (batch, *shape), dtype=np.uint8)


def _pillow(image, offset, padding, flip, degrees):
    """Pad, crop at `offset`, mirror, rotate: what torchvision asks of Pillow."""
    height, width, channels = image.shape
    picture = Image.fromarray(image if channels == 3 else image[..., 0])
    row, column = offset
    picture = ImageOps.expand(picture, padding).crop(
        (column, row, column + width, row + height)
    )
    if flip:
        picture = ImageOps.mirror(picture)
    picture = picture.rotate(degrees, Image.Resampling.NEAREST)
    return np.asarray(picture).reshape(image.shape)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("offset", [(4, 4), (0, 8), (7, 3)])
@pytest.mark.parametrize("degrees", [0.0, 7.3, -14.9, 15.0, 40.0])
def test_transform_equals_pillow(shape, flip, offset, degrees):
    images = _images(shape)
    shifts = jnp.array([offset]) - 4
    seen = transform(
        jnp.asarray(images), shifts, jnp.array([flip]), jnp.array([degrees])
    )
    expected = _pillow(images[0], offset, 4, flip, degrees)
    differing = np.asarray(seen[0] != expected).any(axis=-1)
    # Pillow computes in 16.16 fixed point: a pixel centre that falls on the border
    # between two source pixels may go to the other one.
    assert differing.sum() <= (0 if degrees == 0 else 2)


def test_no_change_is_the_identity():
    images = jnp.asarray(_images((9, 6, 3), batch=4))
    same = transform(
        images, jnp.zeros((4, 2), jnp.int32), jnp.zeros(4, bool), jnp.zeros(4)
    )
    np.testing.assert_array_equal(same, images)
    np.testing.assert_array_equal(
        augment(jax.random.key(0), images, AUGMENTATIONS["none"]), images
    )


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augment_under_jit_vmap_and_map(name):
    augmentation = AUGMENTATIONS[name]
    images = jnp.asarray(_images((32, 32, 3), batch=6)).reshape(2, 3, 32, 32, 3)
    keys = jax.random.split(jax.random.key(1), 2)

    def one(key, batch):
        return augment(key, batch, augmentation)

    with jax.numpy_rank_promotion("raise"):
        alone = jnp.stack(
            [one(key, batch) for key, batch in zip(keys, images, strict=True)]
        )
        mapped = jax.lax.map(lambda pair: one(*pair), (keys, images))
        vmapped = jax.jit(jax.vmap(one))(keys, images)
    assert vmapped.dtype == jnp.uint8 and vmapped.shape == images.shape
    # Compiled trigonometry may differ in the last bit, as from Pillow above.
    assert (mapped != alone).mean() < 1e-3
    assert (vmapped != alone).mean() < 1e-3
    if name != "none":
        assert (vmapped[0] != images[0]).any(axis=(1, 2, 3)).all()


def test_draws_cover_what_the_preset_allows():
    batch = 400
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 3] = 255  # one column left of the centre
    images = jnp.asarray(np.broadcast_to(image, (batch, 9, 9, 1)))
    seen = augment(jax.random.key(2), images, Augmentation(crop_padding=1))
    rows, columns = np.nonzero(np.asarray(seen).sum(axis=0)[..., 0])
    assert set(rows) == {3, 4, 5} and set(columns) == {2, 3, 4}
    seen = augment(jax.random.key(2), images, Augmentation(flip=True))
    flipped = int((seen[:, 4, 5, 0] == 255).sum())
    assert flipped + int((seen[:, 4, 3, 0] == 255).sum()) == batch
    assert abs(flipped - batch / 2) < 4 * np.sqrt(batch) / 2


def test_empty_area_is_black():
    images = jnp.full((1, 8, 8, 3), 200, jnp.uint8)
    seen = transform(images, jnp.array([[-2, 3]]), jnp.array([False]), jnp.zeros(1))
    expected = np.zeros((8, 8), np.uint8)
    expected[2:, :5] = 200
    np.testing.assert_array_equal(seen[0, ..., 0], expected)
