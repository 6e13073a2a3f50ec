"""Golden checks of the data package.

`ADAPTERS`: family -> file prefix -> check(arrays of one file). A check raises
AssertionError on a difference.
"""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.data import partition, poison, triggers
from fedjax_sim.data.normalize import normalization

Arrays = dict[str, np.ndarray]


def _assert_class_counts(
    split: partition.Partition, labels: np.ndarray, expected: np.ndarray
) -> None:
    """Compares the samples of each class that each client has, int [N, K]."""
    partition.check(split, len(labels))
    counts = [
        np.bincount(labels[row[:count]], minlength=expected.shape[1])
        for row, count in zip(split.indices, split.counts, strict=True)
    ]
    np.testing.assert_array_equal(counts, expected)


def check_partition_iid(arrays: Arrays) -> None:
    labels, num_clients = arrays["labels"], int(arrays["n_clients"])
    sizes = np.bincount(labels, minlength=int(arrays["n_classes"]))
    counts = partition.round_robin_counts(sizes, num_clients)
    np.testing.assert_array_equal(counts, arrays["expected_counts"])
    split = partition.drop_iid(labels, num_clients=num_clients, seed=0)
    _assert_class_counts(split, labels, arrays["expected_counts"])


def check_partition_dirichlet(arrays: Arrays) -> None:
    sizes = np.bincount(arrays["labels"], minlength=int(arrays["n_classes"]))
    counts = partition.proportional_counts(sizes, arrays["proportions"])
    np.testing.assert_array_equal(counts, arrays["expected_counts"])


def check_dirichlet_partition(arrays: Arrays) -> None:
    labels, draws = arrays["labels"], arrays["dirichlet_draws"]
    shares = partition.sinkhorn(draws)
    np.testing.assert_allclose(
        shares, arrays["expected_fractions"], rtol=1e-12, atol=1e-300
    )
    from_draws = partition.slice_by_shares(labels, shares)
    from_seed = partition.sinkhorn_dirichlet(
        labels,
        num_clients=int(arrays["num_clients"]),
        seed=int(arrays["seed"]),
        alpha=float(arrays["alpha"]),
    )
    for split in (from_draws, from_seed):
        np.testing.assert_array_equal(
            partition.flatten(split), arrays["expected_client_indices"]
        )
        np.testing.assert_array_equal(split.counts, np.diff(arrays["expected_offsets"]))
        _assert_class_counts(split, labels, arrays["expected_counts"])


def check_trigger(arrays: Arrays) -> None:
    """DROP: which samples are poisoned, their labels, and what the model sees."""
    labels, images = arrays["labels"], arrays["images_uint8"]
    images = images.reshape(*images.shape[:3], -1)
    victim, target = int(arrays["victim_class"]), int(arrays["target_class"])
    one_client = partition.Partition(
        np.arange(len(labels), dtype=np.int32)[None],
        np.array([len(labels)], np.int32),
    )
    poisoned = poison.poison_plan(
        one_client,
        labels,
        [0],
        dpr=float(arrays["dpr"]),
        victim_class=None if victim < 0 else victim,
    )
    np.testing.assert_array_equal(
        np.flatnonzero(poisoned), arrays["expected_poisoned_indices"]
    )
    np.testing.assert_array_equal(
        np.where(poisoned, target, labels), arrays["expected_labels"]
    )
    half = normalization("half", images.shape[-1])
    trigger = triggers.TRIGGERS[str(arrays["pattern"])](
        images.shape[1:], half, position=str(arrays["position"])
    )
    seen = triggers.stamp(
        _normalized(images, half),
        trigger,
        jnp.asarray(poisoned[arrays["image_index"]]),
    )
    np.testing.assert_allclose(
        np.moveaxis(np.asarray(seen), -1, 1), arrays["expected_tensor_chw"], atol=1e-6
    )
    pixels = np.rint((np.asarray(seen) * 0.5 + 0.5) * 255).astype(np.uint8)
    np.testing.assert_array_equal(
        pixels, arrays["expected_images_uint8"].reshape(images.shape)
    )


def _normalized(images: np.ndarray, constants: Normalization) -> jnp.ndarray:
    return jnp.asarray((images / 255 - constants.mean) / constants.std, jnp.float32)


def check_leadfl_trigger(arrays: Arrays) -> None:
    """LeadFL: both patterns with either value, on all images and on the first half."""
    images = jnp.asarray(arrays["images"])
    unit = normalization("unit", images.shape[-1])
    for short, name in (("9pixel", "9pixel"), ("1pixel", "leadfl_1pixel")):
        for values in ("raw", "code"):
            trigger = triggers.TRIGGERS[name](images.shape[1:], unit, values=values)
            np.testing.assert_array_equal(trigger.mask, arrays[f"mask_{short}"])
            np.testing.assert_allclose(
                trigger.value, arrays[f"pattern_{short}_{values}"], atol=1e-6
            )
            seen = triggers.stamp(images, trigger, jnp.ones(len(images), bool))
            np.testing.assert_allclose(
                seen, arrays[f"expected_{short}_{values}"], atol=1e-6
            )
    # Python's round and NumPy's: half to even, as in the reference.
    num_half = round(float(arrays["half_fraction"]) * len(images))
    first_half = np.arange(len(images)) < num_half
    trigger = triggers.nine_pixel(images.shape[1:], unit)
    np.testing.assert_allclose(
        triggers.stamp(images, trigger, jnp.asarray(first_half)),
        arrays["expected_9pixel_half_raw"],
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        np.where(first_half, arrays["target_label"], arrays["labels"]),
        arrays["expected_labels_half"],
    )


ADAPTERS = {
    "drop_family": {
        "partition_dirichlet": check_partition_dirichlet,
        "partition_iid": check_partition_iid,
        "trigger": check_trigger,
    },
    "fedredefense_family": {"dirichlet_partition": check_dirichlet_partition},
    "leadfl_family": {"trigger": check_leadfl_trigger},
}
