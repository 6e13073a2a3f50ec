"""German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012).

Of the official training archives this reads `GTSRB-Training_fixed.zip`, 26 640
images, the one torchvision uses: only with it do the counts of DROP come out,
26 640 + 3 360 = 30 000 training and 12 630 - 3 360 = 9 270 test images. The larger
archive (`GTSRB_Final_Training_Images.zip`, 39 209 images) unpacks to another
folder, `GTSRB/Final_Training`, and is not read.
"""

import csv
from pathlib import Path

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Natural, checked
from fedjax_sim.data import image_files
from fedjax_sim.data.dataset import Origin, data_folder, first_existing, verified

NUM_CLASSES = 43
GTSRB = Origin(
    "gtsrb",
    "GTSRB/Training/000NN/*.ppm (GTSRB-Training_fixed.zip), GTSRB/Final_Test/Images/"
    "*.ppm (GTSRB_Final_Test_Images.zip) and GT-final_test.csv "
    "(GTSRB_Final_Test_GT.zip)",
    "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
    "published-archive.html",
)


def _read_train(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [B, 32, 32, 3], int32 [B]), ordered by class, then file name."""
    paths: list[Path] = []
    labels: list[int] = []
    for label in range(NUM_CLASSES):
        class_folder = folder / f"{label:05d}"
        if not class_folder.is_dir():
            raise GTSRB.error(f"folder '{class_folder}' does not exist")
        files = sorted(class_folder.glob("*.ppm"))
        paths += files
        labels += [label] * len(files)
    images = image_files.decode(paths, 32, GTSRB, resize=True)
    return images, np.array(labels, np.int32)


def _read_test(folder: Path, table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns (uint8 [T, 32, 32, 3], int32 [T]) in the order of the label table."""
    try:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        paths = [folder / Path(row["Filename"]).name for row in rows]
        labels = np.array([int(row["ClassId"]) for row in rows], np.int32)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise GTSRB.error(
            f"'{table}' is not a table with the columns Filename;...;ClassId"
        ) from error
    return image_files.decode(paths, 32, GTSRB, resize=True), labels


def read_folder(
    folder: Path, table: Path, *, test_to_train: int, num_train: int, num_test: int
) -> Dataset:
    """Reads `folder`/Training and `folder`/Final_Test/Images with labels in `table`.

    `num_train` and `num_test` are the official counts, before `test_to_train`
    images change sides.
    """
    if test_to_train >= num_test:
        raise InputError(
            f"config.data.test_to_train = {test_to_train} must be at most "
            f"{num_test - 1}: one test image has to stay"
        )
    train_images, train_labels = _read_train(folder / "Training")
    test_images, test_labels = _read_test(folder / "Final_Test" / "Images", table)
    dataset = verified(
        Dataset(
            GTSRB.name,
            train_images,
            train_labels,
            test_images,
            test_labels,
            NUM_CLASSES,
        ),
        GTSRB,
        image_shape=(32, 32, 3),
        num_train=num_train,
        num_test=num_test,
    )
    kept = num_test - test_to_train
    moved = slice(kept, None)
    return dataset._replace(
        train_images=np.concatenate([train_images, test_images[moved][::-1]]),
        train_labels=np.concatenate([train_labels, test_labels[moved][::-1]]),
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
    root = data_folder(data_dir, GTSRB)
    training = first_existing(
        [root / "gtsrb" / "GTSRB" / "Training", root / "GTSRB" / "Training"], GTSRB
    )
    folder = training.parent
    name = "GT-final_test.csv"
    table = first_existing(
        [
            folder.parent / name,
            folder / name,
            folder / "Final_Test" / name,
            folder / "Final_Test" / "Images" / name,
        ],
        GTSRB,
    )
    return read_folder(
        folder,
        table,
        test_to_train=test_to_train,
        num_train=26_640,
        num_test=12_630,
    )
