"""Golden vectors of peers: triggers and data poisons."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from peers import Case, assert_params, assert_scores

from fedjax_sim.attacks.edge_case import edge_counts
from fedjax_sim.contracts.dataset import Normalization, Partition, Trigger
from fedjax_sim.data.image_triggers import affine, signal
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.poison import poison_plan
from fedjax_sim.data.triggers import make_trigger, stamp
from fedjax_sim.data.warping import warp, warping_grid


def stamped(images: np.ndarray, trigger: Trigger) -> np.ndarray:
    """Returns stamped images as 8-bit pixels, not rounded."""
    pixels = jnp.asarray(images, jnp.float32) / 255
    shown = stamp(pixels, trigger, jnp.ones(len(images), bool))
    return 255 * np.asarray(shown)


def assert_pixels(actual: np.ndarray, case: Case) -> None:
    """Compares pixels, and what 8 bits make of them where that is no toss-up."""
    np.testing.assert_allclose(actual, case["expected"], rtol=2e-5, atol=2e-3)
    if "expected_u8" in case:
        clear = np.abs(actual % 1 - 0.5) > 1e-2
        rounded = np.clip(np.round(actual), 0, 255)
        np.testing.assert_array_equal(rounded[clear], case["expected_u8"][clear])


def _plain(images: np.ndarray) -> Normalization:
    return normalization("unit", images.shape[-1])


def check_blended(case: Case) -> None:
    rate, images = float(case["rate"]), case["images"]
    trigger = affine(
        1 - rate, rate * np.asarray(case["pattern"], float), _plain(images)
    )
    assert_pixels(stamped(images, trigger), case)


def check_sig(case: Case) -> None:
    """Also what BackdoorBench makes of it."""
    images, shape = case["images"], case["images"].shape[1:]
    delta, frequency = float(case["delta"]), float(case["frequency"])
    assert_scores(signal(shape[1], delta, frequency), case["signal"])
    for share, expected in ((1.0, "expected"), (0.2, "backdoorbench_u8")):
        text = f"sig(delta={delta}, frequency={frequency}, share={share})"
        found = stamped(images, make_trigger(text, shape, _plain(images)))
        if share == 1:
            assert_pixels(found, case)
            continue
        clear = np.abs(found - np.round(found)) > 1e-2
        np.testing.assert_array_equal(np.floor(found)[clear], case[expected][clear])


def check_wanet(case: Case) -> None:
    """The grid, the warped images, and those with jitter."""
    images, strength = case["images"], float(case["strength"])
    height, width = images.shape[1:3]
    grid = warping_grid(
        case["control"], height, width, strength, float(case["grid_rescale"])
    )
    assert_params(grid, case["expected_grid"])
    pixels = jnp.asarray(images, jnp.float32)
    assert_pixels(np.asarray(warp(pixels, jnp.asarray(grid))), case)
    shaken = np.clip(grid[None] + case["jitter"] / height, -1, 1).astype(np.float32)
    found = warp(pixels, jnp.asarray(shaken))
    np.testing.assert_allclose(found, case["expected_noise_mode"], 2e-5, 1e-2)


def check_clean_label(case: Case) -> None:
    """One client that has all samples."""
    labels = np.asarray(case["labels"])
    everything = Partition(np.arange(len(labels))[None], np.array([len(labels)]))
    plan = poison_plan(
        everything,
        labels,
        [0],
        dpr=float(case["ratio"]),
        victim_class=int(case["target_class"]),
    )
    np.testing.assert_array_equal(plan, case["expected_poisoned"])
    np.testing.assert_array_equal(labels, case["expected_labels"])


def check_edge_case_counts(case: Case) -> None:
    poisoned, clean = edge_counts(
        int(case["total"]), float(case["ratio"]), int(case["available"])
    )
    assert poisoned == case["expected_poisoned"]
    assert clean == case["expected_benign"]


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "blended": check_blended,
        "clean_label": check_clean_label,
        "edge_case_counts": check_edge_case_counts,
        "sig": check_sig,
        "wanet": check_wanet,
    },
}
