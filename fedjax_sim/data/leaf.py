"""LEAF's FEMNIST (Caldas et al. 2018): JSON files of users, with who wrote what."""

import json

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import Count, checked
from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import content, inside, look
from fedjax_sim.data.groups import numbered
from fedjax_sim.data.places import located

LEAF = Origin(
    "leaf",
    "data/train/*.json and data/test/*.json of LEAF's femnist (preprocess.sh), with "
    "users and user_data of 784 pixels from 0 to 1",
    "https://github.com/TalwalkarLab/leaf/tree/master/data/femnist",
)


def _read_file(path: Place) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Returns the users of a file, their images uint8 [n, 784] and labels."""
    found = content(path, LEAF)
    try:
        table = json.loads(found)
        users = [str(user) for user in table["users"]]
        images, labels = [], []
        for user in users:
            own = table["user_data"].pop(user)  # lists of numbers are large: let go
            pixels = np.asarray(own["x"], np.float32).reshape(len(own["y"]), 784)
            if not (pixels >= 0).all() or not (pixels <= 1).all():
                raise ValueError(f"pixels of user {user} outside 0..1")
            images.append(np.rint(pixels * 255).astype(np.uint8))
            labels.append(np.asarray(own["y"], np.int64))
    except (ValueError, TypeError, KeyError) as error:
        raise LEAF.error(
            f"'{path}' is not a file of LEAF's femnist; it looks like {look(found)} "
            f"({type(error).__name__}: {error})"
        ) from error
    return users, images, labels


def read_split(folder: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images uint8 [M, 28, 28, 1], labels int64 [M] and their users [M].

    Files are read one at a time, in the order of their names.

    Raises:
      InputError: there are none, or one is of another data set.
    """
    files = [one for one in inside(folder) if one.suffix == ".json"]
    if not files:
        raise LEAF.error(f"'{folder}' holds no .json file")
    names: list[str] = []
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for path in files:
        users, own_images, own_labels = _read_file(path)
        images += own_images
        labels += own_labels
        for user, own in zip(users, own_labels, strict=True):
            names += [user] * len(own)
    if not names:
        raise LEAF.error(f"'{folder}': its files have no users")
    joined = np.concatenate(images).reshape(-1, 28, 28, 1)
    return joined, np.concatenate(labels), np.array(names)


@checked("data")
def load_leaf(*, data_dir: str | None = None, num_classes: Count = 62) -> Dataset:
    """LEAF's FEMNIST, grey images of 28x28, whose training samples know their writers.

    The test sets of all users are one test set.

    Args:
      data_dir: folder of LEAF's femnist, or its data folder.
      num_classes: digits, capitals and small letters.
    """
    candidates = ("data/train", "femnist/data/train", "train")
    train = located(data_dir, candidates, LEAF)
    images, labels, users = read_split(train)
    test_images, test_labels, _ = read_split(train.parent / "test")
    return assembled(
        LEAF,
        (images, labels),
        (test_images, test_labels),
        num_classes,
        groups=numbered(users),
    )
