"""Images in a folder for each class, as torchvision's ImageFolder reads them."""

from typing import NamedTuple

import numpy as np

from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import inside
from fedjax_sim.data.image_files import images_in


class Labelled(NamedTuple):
    """Image files and their classes, not yet read."""

    paths: list[Place]
    labels: np.ndarray  # int32 [len(paths)]


def class_names(folder: Place) -> list[str]:
    """Returns the names of the folders in a folder, sorted."""
    return [one.name for one in inside(folder) if one.is_dir()]


def labelled(
    folder: Place, classes: list[str], origin: Origin, inner: str = ""
) -> Labelled:
    """Lists `folder`/CLASS/`inner`/*, ordered by class, then file name.

    Args:
      folder: that holds the classes.
      classes: their names, in the order of the labels.
      origin: for error messages.
      inner: folder of the images within that of a class.

    Raises:
      InputError: a class has no folder.
    """
    paths: list[Place] = []
    counts = []
    for name in classes:
        files = images_in(folder / name / inner, origin)
        paths += files
        counts.append(len(files))
    return Labelled(paths, np.repeat(np.arange(len(classes), dtype=np.int32), counts))


def split_off(labels: np.ndarray, share: float) -> np.ndarray:
    """Returns bool [M]: of each class a share, at least one, for the test set.

    The draw has a fixed seed: the split is part of the data set.
    """
    rng = np.random.default_rng(0)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members[: max(1, round(share * len(members)))]] = True
    return chosen
