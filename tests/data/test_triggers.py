"""Triggers: the right pixels, the right values, and a clear word if they miss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import triggers as t
from fedjax_sim.data.normalize import NORMALIZATIONS, normalization, normalize

COLOUR, GREY = (32, 32, 3), (28, 28, 1)
HALF = normalization("half", 3)


def _pixels(trigger: t.Trigger) -> list[tuple[int, int]]:
    mask = np.asarray(trigger.mask).any(axis=-1)
    return [tuple(pixel) for pixel in np.argwhere(mask).tolist()]


@pytest.mark.parametrize("name", sorted(t.TRIGGERS.keys() - {"image"}))
@pytest.mark.parametrize("shape", [COLOUR, GREY])
def test_every_trigger_fits_the_images_and_is_zero_elsewhere(name, shape):
    trigger = t.TRIGGERS[name](shape, normalization("half", shape[-1]))
    assert trigger.mask.shape == trigger.value.shape == shape
    assert trigger.mask.dtype == bool and trigger.value.dtype == jnp.float32
    assert trigger.mask.any() and not trigger.value[~trigger.mask].any()


@pytest.mark.parametrize(
    ("name", "position", "pixels"),
    [
        ("1pixel", "top_left", [(1, 1)]),
        ("1pixel", "top_right", [(1, 30)]),
        ("1pixel", "bottom_left", [(30, 1)]),
        ("4pixel", "top_left", [(1, 1), (1, 3), (2, 2), (3, 3)]),
        ("4pixel", "top_right", [(1, 29), (1, 31), (2, 30), (3, 31)]),
        ("4pixel", "bottom_left", [(29, 1), (29, 3), (30, 2), (31, 3)]),
    ],
)
def test_drop_triggers_at_their_corners(name, position, pixels):
    trigger = t.TRIGGERS[name](COLOUR, HALF, position=position)
    assert _pixels(trigger) == pixels
    row, column = pixels[0]
    np.testing.assert_array_equal(trigger.value[row, column], [1, -1, -1])


def test_drop_on_the_smallest_images():
    trigger = t.four_pixel((8, 8, 1), normalization("half", 1))
    assert trigger.mask.sum() == 4 and float(trigger.value.max()) == 1.0
    t.four_pixel((4, 4, 1), normalization("half", 1), position="top_right")


@pytest.mark.parametrize("name", ["9pixel", "leadfl_1pixel", "fedredefense_4pixel"])
def test_a_pattern_that_does_not_fit(name):
    with pytest.raises(InputError, match=f"'{name}' sets rows .* have 8x8 pixels"):
        t.TRIGGERS[name]((8, 8, 1), normalization("half", 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("block", {"column": 30}, r"columns 30\.\.33"),
        ("block", {"row": -1}, r"rows -1\.\.2"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        t.TRIGGERS[name](COLOUR, HALF, **options)


def test_red_needs_one_or_three_channels():
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        t.one_pixel((32, 32, 2), normalization("half", 2))


def test_block_is_set_after_normalisation():
    trigger = t.block(COLOUR, HALF, height=2, width=3, row=5, column=6)
    assert _pixels(trigger) == [(r, c) for r in (5, 6) for c in (6, 7, 8)]
    np.testing.assert_array_equal(trigger.value[5, 6], [1, 0, 0])
    assert trigger.mask[5, 6].all()


def test_leadfl_values_raw_and_as_coded():
    raw = t.nine_pixel(GREY, normalization("unit", 1))
    code = t.nine_pixel(GREY, normalization("unit", 1), values="code")
    assert raw.mask.sum() == 9 and float(raw.value.sum()) == 6
    np.testing.assert_allclose(code.value[3, 23], 2.8215, atol=1e-4)
    np.testing.assert_allclose(code.value[3, 24], -0.4242, atol=1e-4)


@pytest.mark.parametrize("shape", [COLOUR, GREY])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedredefense_4pixel", [(26, 26), (24, 26), (26, 24), (25, 25)]),
        ("4pixel", [(1, 1), (2, 2), (3, 3), (1, 3)]),
    ],
)
def test_single_pixels_make_the_whole(name, expected, shape):
    constants = normalization("half", shape[-1])
    whole = t.TRIGGERS[name](shape, constants)
    parts = t.single_pixels(name, shape, constants)
    np.testing.assert_array_equal(parts.mask.any(axis=0), whole.mask)
    np.testing.assert_array_equal(parts.value.sum(axis=0), whole.value)
    each = [t.Trigger(parts.mask[k], parts.value[k]) for k in range(4)]
    assert [_pixels(part) for part in each] == [[pixel] for pixel in expected]


def test_stamp_changes_only_the_images_it_is_asked_for():
    with jax.numpy_rank_promotion("raise"):
        images = jax.random.normal(jax.random.key(0), (3, *COLOUR))
        trigger = t.four_pixel(COLOUR, HALF)
        where = jnp.array([True, False, True])
        seen = jax.jit(t.stamp)(images, trigger, where)
        np.testing.assert_array_equal(seen[1], images[1])
        for image, before in ((seen[0], images[0]), (seen[2], images[2])):
            np.testing.assert_array_equal(
                image, np.where(trigger.mask, trigger.value, before)
            )
        # One trigger per image.
        parts = t.single_pixels("fedredefense_4pixel", COLOUR, HALF)
        each = t.Trigger(parts.mask[:3], parts.value[:3])
        seen = t.stamp(images, each, jnp.ones(3, bool))
        changed = [int((a != b).sum()) for a, b in zip(seen, images, strict=True)]
        assert changed == [1, 1, 1]


def test_normalize_subtracts_mean_and_divides_by_deviation():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    with jax.numpy_rank_promotion("raise"):
        for name, (mean, _) in NORMALIZATIONS.items():
            if not isinstance(mean, float) and len(mean) != 3:
                continue
            constants = normalization(name, 3)
            expected = (images / 255 - constants.mean) / constants.std
            seen = jax.jit(normalize)(jnp.asarray(images), constants)
            assert seen.dtype == jnp.float32
            np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert normalization("half", 2).mean.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("mnist", 3, "1 channels, the images have 3"),
        ("cifar10", 1, "3 channels, the images have 1"),
        ("cifar", 3, "did you mean 'cifar10'"),
    ],
)
def test_a_bad_normalization_is_refused(name, channels, message):
    with pytest.raises(InputError, match=message):
        normalization(name, channels)


# ------------------------------------------------------------- those of whole images


def stamped_pixels(text, pixels, preset="half"):
    """Stamps 8-bit pixels [B, H, W, C] in the model's space, and takes them back."""
    of_images = normalization(preset, pixels.shape[-1])
    trigger = t.make_trigger(text, pixels.shape[1:], of_images)
    shown = normalize(jnp.asarray(pixels, jnp.uint8), of_images)
    shown = t.stamp(shown, trigger, jnp.ones(len(pixels), bool))
    return 255 * np.asarray(shown * of_images.std + of_images.mean)


@pytest.mark.parametrize("preset", ["half", "cifar10"])
def test_blended_and_sig_mean_the_same_whatever_the_normalisation(preset):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    for text in (
        "blended(rate=0.3)",
        "sig(delta=60)",
        "wanet(k=3)",
        "random(pixels=5)",
    ):
        found, usual = (stamped_pixels(text, pixels, p) for p in (preset, "unit"))
        np.testing.assert_allclose(found, usual, atol=2e-3)
        assert found.min() >= -1e-3 and found.max() <= 255 + 1e-3
        assert np.abs(found - pixels).max() > 1


def test_sig_adds_a_wave_to_every_row():
    grey = np.full((1, 4, 4, 1), 100)
    found = stamped_pixels("sig(delta=20, frequency=1)", grey)
    np.testing.assert_allclose(found[0, :, :, 0], [[100, 120, 100, 80]] * 4, atol=1e-3)
    dark = stamped_pixels("sig(delta=20, frequency=1)", 0 * grey)
    np.testing.assert_allclose(dark[0, 0, :, 0], [0, 20, 0, 0], atol=1e-3)


def test_random_pixels_leave_the_others():
    pixels = np.full((1, 6, 6, 1), 77)
    found = stamped_pixels("random(pixels=4, seed=3)", pixels)
    assert (np.abs(found - 77) > 0.01).sum() <= 4
    trigger = t.make_trigger("random(pixels=4)", (6, 6, 1), normalization("half", 1))
    assert trigger.mask.sum() == 4


def test_a_picture_is_pasted_and_mixed(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 3), (250, 100, 0)).save(tmp_path / "logo.png")
    pixels = np.full((1, 6, 6, 3), 50)
    place = f"path={str(tmp_path / 'logo.png')!r}, row=1, column=2, height=2, width=3"
    found = stamped_pixels(f"image({place})", pixels)
    assert np.abs(found[0, 1:3, 2:5] - [250, 100, 0]).max() < 1e-2
    assert np.abs(np.delete(found[0], [1, 2], axis=0) - 50).max() < 1e-2
    found = stamped_pixels(f"image({place}, rate=0.5)", pixels)
    assert np.abs(found[0, 1, 2] - [150, 75, 25]).max() < 1e-2


def test_wanet_moves_pixels_and_keeps_a_plain_image():
    plain = np.full((1, 8, 8, 1), 91)
    np.testing.assert_allclose(stamped_pixels("wanet(strength=3.0)", plain), 91, 1e-5)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 1))
    np.testing.assert_allclose(
        stamped_pixels("wanet(strength=0.0)", pixels), pixels, atol=2e-3
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sigg", "config.attack.trigger = 'sigg'"),
        ("sig(3)", "must be NAME or NAME(option=value, ...)"),
        ("sig(delta=1", "must be NAME or NAME(option=value, ...)"),
        ("sig(dleta=1)", "dleta is not an option of sig; did you mean 'delta'"),
        ("sig(delta='a')", "delta = 'a' must be float"),
        ("sig(share=2.0)", "must lie between 0 and 1"),
        ("blended(path='/nowhere.png')", "'/nowhere.png': No such file"),
        ("image()", "needs a path='FILE'"),
        ("random(pixels=99)", "must lie between 1 and 64"),
    ],
)
def test_a_wrong_trigger_is_one_line(text, words):
    with pytest.raises(InputError) as error:
        t.make_trigger(text, (8, 8, 1), normalization("half", 1))
    assert words in str(error.value) and "\n" not in str(error.value)
