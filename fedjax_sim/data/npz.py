"""Arrays in a NumPy archive (.npz): images, labels, and perhaps whose they are."""

from pathlib import Path

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import Count, Fraction, checked
from fedjax_sim.data.class_folders import split_off
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import holds, look
from fedjax_sim.data.places import given_path

NPZ = Origin(
    "npz",
    "a file .npz of uint8 images [n, H, W] or [n, H, W, C] and whole labels [n], with "
    "the keys x_train, y_train, x_test, y_test, or train_images, train_labels, "
    "test_images, test_labels, or images, labels (with data.test_share)",
    "https://numpy.org/doc/stable/reference/generated/numpy.savez.html",
)
_SPLIT_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
)
_WHOLE_KEYS = (("images", "labels"), ("x", "y"))
_GROUPS = "train_groups"  # of the training samples, or of all where there is one split


def find_file(data_dir: str | None, origin: Origin, suffix: str) -> Path:
    """Returns `data_dir` if it is a file, else the only file in it with that suffix.

    Raises:
      InputError: there is none, or several.
    """
    path = given_path(data_dir, origin)
    if path.is_file():
        return path
    found = sorted(one for one in path.glob(f"*{suffix}") if one.name[0] != ".")
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in found)
    what = f"several of them, {names}; name one" if found else holds(path)
    raise origin.error(f"no single file {suffix} in '{data_dir}': {what}")


def _images(array: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Returns uint8 [n, H, W, C]; nothing but a missing channel is made up for."""
    if array.ndim == 3:
        array = array[..., None]
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise NPZ.error(
            f"'{path}': {key} is {array.dtype}{shape}, uint8 expected: save "
            f"{key}.astype('uint8') of values from 0 to 255"
        )
    if array.ndim != 4:
        raise NPZ.error(f"'{path}': {key} is {shape}, [n, H, W] or [n, H, W, C] needed")
    if shape[1] in (1, 3) and shape[3] not in (1, 3, 4):
        raise NPZ.error(
            f"'{path}': {key} is {shape}, channels first: save "
            f"{key}.transpose(0, 2, 3, 1)"
        )
    return array


def _labels(array: np.ndarray, key: str, path: Path) -> np.ndarray:
    """Returns int [n]; one column is taken as such."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise NPZ.error(
            f"'{path}': {key} is {array.dtype}{list(array.shape)}, one whole number "
            "for each image expected"
        )
    return array


@checked("data")
def load_npz(
    *,
    data_dir: str | None = None,
    num_classes: Count | None = None,
    test_share: Fraction = 0.0,
) -> Dataset:
    """Images and labels from one .npz file, as it is.

    Args:
      data_dir: the file, or a folder in which it is the only one.
      num_classes: None: one more than the largest label.
      test_share: of each class, for arrays of one split; drawn with a fixed seed.
    """
    path = find_file(data_dir, NPZ, ".npz")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("one array only")
        with loaded as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # zip and NumPy fail in many ways
        raise NPZ.error(
            f"cannot read '{path}' as .npz; it looks like {look(path)} ({error})"
        ) from error
    groups = arrays.get(_GROUPS)
    for keys in _SPLIT_KEYS:
        if all(key in arrays for key in keys):
            images, labels, test_images, test_labels = (
                (_labels if k % 2 else _images)(arrays[key], key, path)
                for k, key in enumerate(keys)
            )
            break
    else:
        images, labels, test_images, test_labels, groups = _divided(
            arrays, path, test_share, groups
        )
    largest = int(max(labels.max(initial=0), test_labels.max(initial=0)))
    return assembled(
        NPZ,
        (images, labels),
        (test_images, test_labels),
        num_classes or largest + 1,
        groups=groups,
    )


def _divided(arrays, path: Path, test_share: float, groups: np.ndarray | None):
    """Splits arrays of one split: images, labels, those of the test set, groups."""
    for image_key, label_key in _WHOLE_KEYS:
        if image_key in arrays and label_key in arrays:
            break
    else:
        raise NPZ.error(f"'{path}' holds the arrays {', '.join(arrays) or 'none'}")
    if test_share == 0:
        raise NPZ.error(
            f"'{path}' has one split ({image_key}, {label_key}); "
            "config.data.test_share=0.2 takes a fifth of each class for the test"
        )
    images = _images(arrays[image_key], image_key, path)
    labels = _labels(arrays[label_key], label_key, path)
    if len(images) != len(labels):
        raise NPZ.error(f"'{path}': {len(images)} images but {len(labels)} labels")
    tested = split_off(labels, test_share)
    if groups is not None and groups.shape == labels.shape:
        groups = groups[~tested]
    return images[~tested], labels[~tested], images[tested], labels[tested], groups
