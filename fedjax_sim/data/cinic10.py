"""CINIC-10 from its folders of PNG files (Darlow et al. 2018)."""

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data import image_files
from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin, verified
from fedjax_sim.data.places import located

CINIC10 = Origin(
    "cinic10",
    "train|valid|test/CLASS/*.png (there, in cinic-10/ or in CINIC-10/, or packed in "
    "CINIC-10.tar.gz)",
    "https://datashare.ed.ac.uk/handle/10283/3192",
)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def _read_split(folder: Place) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]), ordered by class, then file name."""
    paths: list[Place] = []
    labels: list[int] = []
    for label, name in enumerate(CLASSES):
        files = image_files.images_in(folder / name, CINIC10)
        paths += files
        labels += [label] * len(files)
    return image_files.decode(paths, 32, CINIC10), np.array(labels, np.int32)


def read_folder(folder: Place, *, use_valid: bool, num_per_split: int) -> Dataset:
    """Reads `folder`/train|valid|test, each of which holds `num_per_split` images."""
    train = [_read_split(folder / "train")]
    if use_valid:
        train.append(_read_split(folder / "valid"))
    test_images, test_labels = _read_split(folder / "test")
    return verified(
        Dataset(
            CINIC10.name,
            np.concatenate([images for images, _ in train]),
            np.concatenate([labels for _, labels in train]),
            test_images,
            test_labels,
            len(CLASSES),
        ),
        CINIC10,
        image_shape=(32, 32, 3),
        num_train=num_per_split * len(train),
        num_test=num_per_split,
    )


@checked("data")
def load_cinic10(*, data_dir: str | None = None, use_valid: bool = True) -> Dataset:
    """CINIC-10, colour images of 32x32.

    Args:
      data_dir: folder that holds the files.
      use_valid: join train and valid: 180 000 + 90 000 images (DROP); without it
        90 000 + 90 000 (FedREDefense's code).
    """
    train = located(
        data_dir,
        ("cinic-10/train", "CINIC-10/train", "train"),
        CINIC10,
        ("CINIC-10.tar.gz",),
    )
    return read_folder(train.parent, use_valid=use_valid, num_per_split=90_000)
