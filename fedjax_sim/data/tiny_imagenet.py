"""Tiny ImageNet (Stanford CS231N): 200 classes of ImageNet in 64x64 pixels."""

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data import image_files
from fedjax_sim.data.archives import Place
from fedjax_sim.data.class_folders import Labelled, class_names, labelled
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import content, look
from fedjax_sim.data.places import located

TINY_IMAGENET = Origin(
    "tiny_imagenet",
    "tiny-imagenet-200/ with train/WNID/images/*.JPEG, val/images/*.JPEG and "
    "val/val_annotations.txt (or val/WNID/), or tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)


def _validation(folder: Place, classes: list[str]) -> Labelled:
    """The labelled images of the validation set, in the order of their table."""
    table = folder / "val_annotations.txt"
    if not table.is_file():  # sorted into classes, as scripts do it
        inner = "images" if (folder / classes[0] / "images").is_dir() else ""
        return labelled(folder, classes, TINY_IMAGENET, inner)
    found = content(table, TINY_IMAGENET)
    try:
        lines = found.decode("utf-8-sig").split("\n")
        rows = [line.split("\t")[:2] for line in lines if line.strip()]
        labels = [classes.index(own.strip()) for _, own in rows]
    except (UnicodeDecodeError, ValueError) as error:
        raise TINY_IMAGENET.error(
            f"'{table}' is not a table of images and their classes; it looks like "
            f"{look(found)}"
        ) from error
    paths = [folder / "images" / name for name, _ in rows]
    return Labelled(paths, np.array(labels, np.int32))


def read_folder(
    folder: Place, *, num_classes: int, num_train: int, num_test: int
) -> Dataset:
    """Reads the folder; the counts are those expected."""
    classes = class_names(folder / "train")
    if len(classes) != num_classes:
        raise TINY_IMAGENET.error(
            f"'{folder / 'train'}' holds {len(classes)} classes, {num_classes} expected"
        )
    train = labelled(folder / "train", classes, TINY_IMAGENET, "images")
    test = _validation(folder / "val", classes)
    return assembled(
        TINY_IMAGENET,
        (image_files.decode(train.paths, 64, TINY_IMAGENET), train.labels),
        (image_files.decode(test.paths, 64, TINY_IMAGENET), test.labels),
        num_classes,
        image_shape=(64, 64, 3),
        num_train=num_train,
        num_test=num_test,
    )


@checked("data")
def load_tiny_imagenet(*, data_dir: str | None = None) -> Dataset:
    """Tiny ImageNet, 100 000 training and 10 000 validation images of 64x64.

    The official test images have no labels: the validation images are the test set.
    Classes are numbered in the order of their WordNet ids; grey images become colour.
    """
    train = located(
        data_dir,
        ("tiny-imagenet-200/train", "train"),
        TINY_IMAGENET,
        ("tiny-imagenet-200.zip",),
    )
    return read_folder(
        train.parent, num_classes=200, num_train=100_000, num_test=10_000
    )
