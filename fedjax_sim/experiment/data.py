"""The data of a run: the clients' images, and the server's own samples."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.defense import RootRequest
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data import sources
from fedjax_sim.data.augment import AUGMENTATIONS, augment
from fedjax_sim.data.dataset import first_samples
from fedjax_sim.experiment.outside import blamed
from fedjax_sim.round.batches import TrainData
from fedjax_sim.round.state import RootData


def load_data(config: Config, given: Dataset | None = None) -> Dataset:
    """Returns the data set of a config, shortened if the config says so.

    Args:
      config: of the run.
      given: a data set of the caller's, which the config calls `arrays`.

    Raises:
      InputError: it cannot be loaded, or is no data set; or one is given and the config
        names another.
    """
    section = config.data
    if given is None:
        with blamed(config):
            data = sources.load(
                section.name, data_dir=section.data_dir, **section.options
            )
    elif section.name != sources.GIVEN:
        raise InputError(
            f"config.data.name = {section.name!r} must be {sources.GIVEN!r} where the "
            "caller gives the data set"
        )
    else:
        data = given
    data = checked_arrays(data, f"config.data.name = {section.name!r}")
    for part, wanted in (("train", section.num_train), ("test", section.num_test)):
        images = getattr(data, f"{part}_images")
        if wanted is None:
            continue
        if wanted > len(images):
            raise InputError(
                f"config.data.num_{part} = {wanted} must be at most {len(images)}, the "
                f"{part}ing samples of {section.name}"
            )
        labels = getattr(data, f"{part}_labels")
        chosen = first_samples(labels, wanted)
        data = data._replace(
            **{f"{part}_images": images[chosen], f"{part}_labels": labels[chosen]}
        )
        if part == "train" and data.train_groups is not None:
            data = data._replace(train_groups=data.train_groups[chosen])
    return data


def checked_arrays(data: Dataset, start: str) -> Dataset:
    """Returns a data set with labels of int32, whoever made it.

    Args:
      data: see `contracts.dataset.Dataset`.
      start: of the message.

    Raises:
      InputError: it is no `Dataset`, or arrays of it have another type, shape or range.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"{start}: a {type(data).__name__} was made, no Dataset")
    checked = []
    for part in ("train", "test"):
        images = getattr(data, f"{part}_images")
        labels = np.asarray(getattr(data, f"{part}_labels"))
        images_ok = isinstance(images, np.ndarray) and images.dtype == np.uint8
        if not images_ok or images.ndim != 4:
            what = f"{getattr(images, 'dtype', type(images).__name__)}"
            raise InputError(
                f"{start}: {part}_images must be uint8 [images, H, W, C], not "
                f"{what} {list(np.shape(images))}"
            )
        if labels.shape != (len(images),) or not np.issubdtype(
            labels.dtype, np.integer
        ):
            raise InputError(
                f"{start}: {part}_labels must be {len(images)} integers, not "
                f"{labels.dtype} {list(labels.shape)}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < data.num_classes:
            raise InputError(
                f"{start}: {part}_labels lie in {labels.min()}..{labels.max()}, "
                f"allowed: 0..{data.num_classes - 1}"
            )
        checked.append(labels.astype(np.int32))
    groups = data.train_groups
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != checked[0].shape or not np.issubdtype(
            groups.dtype, np.integer
        ):
            raise InputError(
                f"{start}: train_groups must be {len(checked[0])} integers or None, "
                f"not {groups.dtype} {list(groups.shape)}"
            )
    return data._replace(
        train_labels=checked[0], test_labels=checked[1], train_groups=groups
    )


def root_data(
    config: Config, request: RootRequest | None, dataset: Dataset, key: jax.Array
) -> RootData | None:
    """Draws the server's own samples from the training data, fixed for the run.

    Raises:
      InputError: the defence asks for more samples than there are.
    """
    if request is None:
        return None
    total, wanted = len(dataset.train_labels), request.num_samples
    if wanted > total:
        raise InputError(
            f"config.defense.name = {config.defense.name!r} asks for {wanted} clean "
            f"samples of the server, but the training data has {total}"
        )
    order_key, augment_key = jax.random.split(stream(key, Purpose.ROOT_DATA))
    order = np.asarray(jax.random.permutation(order_key, total))
    if request.balanced:
        # Rank of each sample within its class: take all first ones, then second ones.
        labels = dataset.train_labels[order]
        rank = np.zeros(total, np.int64)
        for label in np.unique(labels):
            rank[labels == label] = np.arange((labels == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    chosen = order[:wanted]
    images = dataset.train_images[chosen]
    labels = dataset.train_labels[chosen].astype(np.int32)
    seen = images
    if request.augmented:
        seen = augment(augment_key, images, AUGMENTATIONS[config.data.augmentation])
    own = TrainData(
        images=images,
        labels=labels,
        indices=jnp.arange(wanted)[None],
        counts=jnp.array([wanted]),
        poison_plan=(),
    )
    return RootData(own, seen)
