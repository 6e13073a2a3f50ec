"""What the model of a run's newest checkpoint does with the test images."""

import io
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import denormalize, normalization, normalize
from fedjax_sim.data.partition_files import labels_digest, read_partition
from fedjax_sim.data.triggers import stamp
from fedjax_sim.experiment.trained import network_of
from fedjax_sim.experiment.trained import newest_arrays as newest_arrays
from fedjax_sim.reports.triggered_images import Backdoor
from fedjax_sim.reports.triggered_images import backdoor_of as backdoor_of
from fedjax_sim.reports.triggered_images import moves as moves

_BATCH = 500
_TESTED = 5000  # test images; of more, the first
_SHOWN = 8  # images of a line
_KEPT = 6  # lines of what a rule keeps


class Tile(NamedTuple):
    """A small picture."""

    source: str  # data: URI
    text: str  # what it is


class Answers(NamedTuple):
    """The classes of test images."""

    labels: np.ndarray  # i64 [T]
    clean: np.ndarray  # i64 [T], of the images as they are
    stamped: np.ndarray | None  # i64 [T], with the trigger; None: there is none


def answers(
    config: Config,
    dataset: Dataset,
    arrays: Mapping[str, np.ndarray],
    backdoor: Backdoor | None,
) -> Answers:
    """Classifies the test images, with and without the trigger.

    The global model's argmax: a rule's own vote or refusal is not asked.
    """
    images, labels = dataset.test_images[:_TESTED], dataset.test_labels[:_TESTED]
    shape = images.shape[1:]
    classify = jax.jit(network_of(config, shape, dataset.num_classes).logits)
    params = jnp.asarray(arrays["[0].params"])
    buffers = jnp.asarray(arrays.get("[0].buffers", np.zeros(0, np.float32)))
    of_images = normalization(config.data.normalization, shape[-1])
    found: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for start in range(0, len(images), _BATCH):
        x = normalize(jnp.asarray(images[start : start + _BATCH]), of_images)
        found[False].append(np.asarray(classify(params, buffers, x).argmax(-1)))
        if backdoor is not None:
            x = stamp(x, backdoor.trigger, jnp.ones(len(x), bool))
            found[True].append(np.asarray(classify(params, buffers, x).argmax(-1)))
    stamped = np.concatenate(found[True]) if backdoor is not None else None
    return Answers(np.asarray(labels), np.concatenate(found[False]), stamped)


def confusion(labels: np.ndarray, found: np.ndarray, classes: int) -> list[list[int]]:
    """Counts [true class][predicted class]."""
    size = max(classes, int(found.max(initial=0)) + 1)  # a network may have more
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, found), 1)
    return counts.tolist()


def test_pictures(
    config: Config, dataset: Dataset, said: Answers, backdoor: Backdoor | None
) -> dict[str, list[Tile]]:
    """Images that the model takes for others, and those with the trigger."""
    wrong = np.flatnonzero(said.clean != said.labels)[:_SHOWN]
    lines = {
        "Misclassified": [
            _tile(
                dataset.test_images[i] / 255,
                f"class {said.labels[i]}, taken for {said.clean[i]}",
            )
            for i in wrong
        ]
    }
    if backdoor is None or said.stamped is None:
        return lines
    victims = said.labels != backdoor.target
    if backdoor.victim is not None:
        victims = said.labels == backdoor.victim
    chosen = np.flatnonzero(victims)[:_SHOWN]
    images = dataset.test_images[chosen]
    of_images = normalization(config.data.normalization, images.shape[-1])
    x = normalize(jnp.asarray(images), of_images)
    marked = stamp(x, backdoor.trigger, jnp.ones(len(x), bool))
    pair = [np.asarray(denormalize(part, of_images)) for part in (x, marked)]
    apart = np.abs(pair[1] - pair[0])
    apart /= max(float(apart.max(initial=0)), 1e-6)
    for name, pictures, texts in (
        ("Clean", pair[0], [f"taken for {c}" for c in said.clean[chosen]]),
        ("With the trigger", pair[1], [f"taken for {c}" for c in said.stamped[chosen]]),
        ("Difference (amplified)", apart, ["" for _ in chosen]),
    ):
        lines[name] = [_tile(p, t) for p, t in zip(pictures, texts, strict=True)]
    return lines


def kept_pictures(
    arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], clients: int
) -> tuple[dict[str, list[Tile]], int]:
    """Images in what the rule and the attack remember, by their name in the state.

    An array is taken for images where its last axes are those of an image: synthetic
    images of FedREDefense (a line a client), triggers that are inverted, within their
    masks.

    Args:
      arrays: of a checkpoint, by path.
      shape: of an image.
      clients: N, of the run: a leading axis as long as that counts them.

    Returns:
      The first lines, and how many there are.
    """
    found: dict[str, np.ndarray] = {}
    for path, array in arrays.items():
        if path.endswith((".params", ".buffers")) or array.ndim < len(shape) + 1:
            continue
        if tuple(array.shape[-len(shape) :]) != tuple(shape):
            continue
        mask = arrays.get(path.removesuffix(".pattern") + ".mask")
        if path.endswith(".pattern") and mask is not None:
            array = array * mask[..., None]
        stacks = array.reshape(-1, array.shape[-len(shape) - 1], *shape)
        name = path.removeprefix("[0].")
        for i, stack in enumerate(stacks):
            if np.any(stack):
                which = f" of client {i}" if len(stacks) == clients else f" {i}"
                found[name + (which if len(stacks) > 1 else "")] = stack
    lines = {}
    for name, stack in list(found.items())[:_KEPT]:
        text = lambda x: "" if np.any(x) else "nothing"
        lines[name] = [_tile(_stretched(x), text(x)) for x in stack[:_SHOWN]]
    return lines, len(found)


def _stretched(image: np.ndarray) -> np.ndarray:
    """Whatever range it has, from black to white."""
    image = np.nan_to_num(np.asarray(image, np.float32))
    low, high = float(image.min()), float(image.max())
    return (image - low) / max(high - low, 1e-6)


def _tile(image: np.ndarray, text: str) -> Tile:
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] not in (3, 4):
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = b64encode(buffer.getvalue()).decode()
    return Tile(f"data:image/png;base64,{data}", text)


def classes_by_client(run: Path, dataset: Dataset) -> list[list[int]]:
    """Samples [client][class] of partition.npz, before an attack moves any.

    Raises:
      InputError: the file is not there, or of other training labels.
    """
    path = run / "partition.npz"
    if not path.exists():
        raise InputError("partition.npz is not there: runs of this version write it")
    partition, digest = read_partition(path)
    if digest not in (None, labels_digest(dataset.train_labels)):
        raise InputError("partition.npz is of other training labels than those here")
    return [
        np.bincount(
            dataset.train_labels[indices[:count]], minlength=dataset.num_classes
        ).tolist()
        for indices, count in zip(partition.indices, partition.counts, strict=True)
    ]


def expelled_clients(arrays: Mapping[str, np.ndarray]) -> list[int]:
    """Clients that the rule has banned for good, where its state says so."""
    banned = [a for path, a in arrays.items() if path.endswith(".expelled")]
    return sorted({int(i) for array in banned for i in np.flatnonzero(array)})
