"""Any images in a folder for each class, such as torchvision's ImageFolder reads."""

from functools import partial

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import Fraction, Width, checked
from fedjax_sim.data import image_files
from fedjax_sim.data.archives import Place
from fedjax_sim.data.class_folders import Labelled, class_names, labelled, split_off
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import inside
from fedjax_sim.data.places import nothing_found, places

IMAGE_FOLDER = Origin(
    "image_folder",
    "train/CLASS/*.png|jpg|... and test|val|valid/CLASS/*, or CLASS/* with "
    "data.test_share",
    "https://pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html",
)
_TRAIN = ("train", "training", "Train")
_TEST = ("test", "testing", "val", "valid", "validation", "Test")


def find_splits(place: Place) -> tuple[Place | None, Place | None]:
    """Returns the folders of training and test images, None for what is missing."""
    roots = [place, *(one for one in inside(place) if one.is_dir())]
    for root in roots:  # an archive often has one folder at its top
        train = next((root / name for name in _TRAIN if (root / name).is_dir()), None)
        test = next((root / name for name in _TEST if (root / name).is_dir()), None)
        if train is not None:
            return train, test
    return None, None


@checked("data")
def load_image_folder(
    *,
    data_dir: str | None = None,
    size: Width | None = None,
    grey: bool | None = None,
    test_share: Fraction = 0.0,
) -> Dataset:
    """Images in a folder for each class; classes are numbered in the order of names.

    Args:
      data_dir: folder or archive that holds the files.
      size: height and width to scale images to (bicubic); None: all must have one size.
      grey: one channel instead of three; None: as the first image is.
      test_share: of each class, for a set without test images; drawn with a fixed seed.
    """
    for place in places(data_dir, IMAGE_FOLDER):
        train, test = find_splits(place)
        if train is None and class_names(place):
            train = place
        if train is not None:
            break
    else:
        raise nothing_found(data_dir, ("train", "CLASS"), IMAGE_FOLDER)
    classes = class_names(train)
    found = labelled(train, classes, IMAGE_FOLDER)
    if not found.paths:
        raise IMAGE_FOLDER.error(
            f"'{train}' holds no images in its folders ({', '.join(classes[:6])})"
        )
    if test is not None:
        tested = _tested(test, classes)
    elif test_share > 0:
        chosen = split_off(found.labels, test_share)
        tested = _chosen(found, chosen)
        found = _chosen(found, ~chosen)
    else:
        raise IMAGE_FOLDER.error(
            f"'{train.parent}' has no folder of test images ({', '.join(_TEST)}); "
            "config.data.test_share=0.2 takes a fifth of each class"
        )
    read = partial(
        image_files.decode,
        origin=IMAGE_FOLDER,
        resize=size is not None,
        channels=None if grey is None else 1 if grey else 3,
    )
    images = read(found.paths, size)
    test_images = read(tested.paths, images.shape[1:3], channels=images.shape[-1])
    return assembled(
        IMAGE_FOLDER,
        (images, found.labels),
        (test_images, tested.labels),
        len(classes),
    )


def _chosen(found: Labelled, which) -> Labelled:
    paths = [path for path, taken in zip(found.paths, which, strict=True) if taken]
    return Labelled(paths, found.labels[which])


def _tested(test: Place, classes: list[str]) -> Labelled:
    """The test images; their classes must be those of the training images."""
    unknown = sorted({*class_names(test)} - {*classes})
    if unknown or not class_names(test):
        what = f"the classes {', '.join(unknown[:6])}" if unknown else "no classes"
        raise IMAGE_FOLDER.error(
            f"'{test}' has {what}, which '{test.parent}' has no training images of"
        )
    present = [name for name in classes if (test / name).is_dir()]
    found = labelled(test, present, IMAGE_FOLDER)
    numbers = np.array([classes.index(name) for name in present], np.int32)
    return Labelled(found.paths, numbers[found.labels])
