"""German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012).

There are two official training archives. `GTSRB-Training_fixed.zip`, 26 640 images, is
the one torchvision uses: only with it do the counts of DROP come out, 26 640 + 3 360 =
30 000 training and 12 630 - 3 360 = 9 270 test images. The larger one,
`GTSRB_Final_Training_Images.zip`, has 39 209 images, and so has Kaggle's copy of it in
PNG. Where both are there, the first is read.
"""

from typing import NamedTuple

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Natural, checked
from fedjax_sim.core.progress import note
from fedjax_sim.data import image_files
from fedjax_sim.data.archives import Place
from fedjax_sim.data.csv_tables import read_table
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.places import located, nothing_found, places

NUM_CLASSES = 43
GTSRB = Origin(
    "gtsrb",
    "GTSRB/Training/000NN/*.ppm (GTSRB-Training_fixed.zip) or GTSRB/Final_Training/"
    "Images/000NN/*.ppm (GTSRB_Final_Training_Images.zip), GTSRB/Final_Test/Images/"
    "*.ppm (GTSRB_Final_Test_Images.zip) and GT-final_test.csv "
    "(GTSRB_Final_Test_GT.zip); or Kaggle's Train.csv, Train/, Test.csv, Test/",
    "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
    "published-archive.html",
)
_TABLE = "GT-final_test.csv"
_OUTER = ("", "gtsrb/")
# Layouts of the training images, with how many they are.
_TRAINING = (("GTSRB/Training", 26_640), ("GTSRB/Final_Training/Images", 39_209))
_ARCHIVES = ("GTSRB-Training_fixed.zip", "GTSRB_Final_Training_Images.zip")


class Files(NamedTuple):
    """Images and their labels, not yet read."""

    paths: list[Place]
    labels: list[int]


def train_files(folder: Place) -> Files:
    """Lists `folder`/000NN/*.ppm by class, then file name.

    Raises:
      InputError: a class is missing, or the table beside the images lists others.
    """
    found = Files([], [])
    for label in range(NUM_CLASSES):
        class_folder = folder / f"{label:05d}"
        files = image_files.images_in(class_folder, GTSRB)
        table = class_folder / f"GT-{label:05d}.csv"
        if table.is_file():
            rows = read_table(table, ("Filename", "ClassId"), GTSRB)
            listed = sorted(name for name, own in rows if own == str(label))
            if listed != [path.name for path in files]:
                raise GTSRB.error(
                    f"'{table}' lists {len(rows)} images, {len(listed)} of them of "
                    f"class {label}; the folder holds {len(files)} or others"
                )
        found.paths.extend(files)
        found.labels.extend([label] * len(files))
    return found


def listed_files(table: Place, root: Place, column: str) -> Files:
    """Lists the images of a table, with the labels of its column ClassId.

    Args:
      table: of the test images, or of Kaggle.
      root: what the names in the table are below.
      column: of the names.

    Raises:
      InputError: it is no such table, or a label is no number.
    """
    rows = read_table(table, (column, "ClassId"), GTSRB)
    if not all(label.isdigit() for _, label in rows):
        raise GTSRB.error(f"'{table}': a ClassId is no number")
    if column == "Filename":  # beside each other, whatever a table says before a slash
        rows = [[name.rpartition("/")[2], label] for name, label in rows]
    return Files([root / name for name, _ in rows], [int(own) for _, own in rows])


def read_files(
    train: Files, test: Files, *, test_to_train: int, num_train: int, num_test: int
) -> Dataset:
    """Reads the images, scaled to 32x32.

    `num_train` and `num_test` are the official counts, before `test_to_train`
    images change sides.
    """
    if test_to_train >= num_test:
        raise InputError(
            f"config.data.test_to_train = {test_to_train} must be at most "
            f"{num_test - 1}: one test image has to stay"
        )
    read = lambda files: (
        image_files.decode(files.paths, 32, GTSRB, resize=True),
        np.array(files.labels, np.int32),
    )
    dataset = assembled(
        GTSRB,
        read(train),
        read(test),
        NUM_CLASSES,
        image_shape=(32, 32, 3),
        num_train=num_train,
        num_test=num_test,
    )
    _, images, labels, test_images, test_labels, *_ = dataset
    kept = num_test - test_to_train
    moved = slice(kept, None)
    return dataset._replace(
        train_images=np.concatenate([images, test_images[moved][::-1]]),
        train_labels=np.concatenate([labels, test_labels[moved][::-1]]),
        test_images=test_images[:kept],
        test_labels=test_labels[:kept],
    )


@checked("data")
def load_gtsrb(
    *, data_dir: str | None = None, test_to_train: Natural = 3_360
) -> Dataset:
    """GTSRB, 43 classes, colour images scaled to 32x32 (bicubic).

    Args:
      data_dir: folder that holds the files.
      test_to_train: how many of the last official test images are appended to the
        training images, last one first; DROP's code moves 3 360. 0 keeps the official
        sets.
    """
    train, count = _find_training(data_dir)
    if train.name == "Train.csv":
        found = listed_files(train, train.parent, "Path")
        test = listed_files(train.parent / "Test.csv", train.parent, "Path")
        # Kaggle's table is not in the order of the official folders.
        order = sorted(range(len(found.labels)), key=lambda k: _place(found, k))
        found = Files([found.paths[k] for k in order], [found.labels[k] for k in order])
    else:
        found = train_files(train)
        test = _official_test(data_dir)
    if count != _TRAINING[0][1]:
        note(
            f"data set 'gtsrb': '{train}' is of the archive of {count} training "
            f"images; DROP's numbers are of that of {_TRAINING[0][1]}, {_ARCHIVES[0]}"
        )
    return read_files(
        found, test, test_to_train=test_to_train, num_train=count, num_test=12_630
    )


def _place(files: Files, k: int) -> tuple[int, str]:
    return files.labels[k], files.paths[k].name


def _find_training(data_dir: str | None) -> tuple[Place, int]:
    """Returns the folder of the classes, or Kaggle's table, and its official size."""
    layouts = (*_TRAINING, ("Train.csv", _TRAINING[1][1]))
    names = [(outer + name, count) for name, count in layouts for outer in _OUTER]
    for place in places(data_dir, GTSRB, _ARCHIVES):
        for name, count in names:
            if (place / name).exists():
                return place / name, count
    raise nothing_found(data_dir, tuple(name for name, _ in names), GTSRB)


def _official_test(data_dir: str | None) -> Files:
    inner = ("", "GTSRB/", "GTSRB/Final_Test/", "GTSRB/Final_Test/Images/")
    tables = tuple(outer + name + _TABLE for outer in _OUTER for name in inner)
    # The archive of the images has a table of its own, without labels.
    images = tuple(f"{outer}GTSRB/Final_Test/Images" for outer in _OUTER)
    return listed_files(
        located(data_dir, tables, GTSRB, ("GTSRB_Final_Test_GT.zip",)),
        located(data_dir, images, GTSRB, ("GTSRB_Final_Test_Images.zip",)),
        "Filename",
    )
