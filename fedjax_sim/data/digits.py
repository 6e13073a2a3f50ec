"""scikit-learn's handwritten digits: real images that need no download."""

import importlib.util
from pathlib import Path

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked


@checked("data")
def load_digits(*, data_dir: str | None = None) -> Dataset:
    """1437 + 360 grey images of 8x8, 10 classes (Alpaydin and Kaynak 1998).

    The original values 0..16 are scaled to 0..255. The split is fixed: of the
    samples sorted by class every fifth is a test sample.
    """
    del data_dir  # The images come with scikit-learn.
    values, labels = _packaged()
    images = np.rint(values.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[..., None]
    is_test = np.zeros(len(labels), bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    return Dataset(
        "digits",
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        10,
    )


def _packaged() -> tuple[np.ndarray, np.ndarray]:
    """Returns the values f64 [1797, 64] and the labels i32 [1797] in scikit-learn.

    Its file is read where it lies: to import the package takes a second, longer than
    all that a small run needs.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install scikit-learn (https://scikit-learn.org)"
        )
    folder = Path(package.submodule_search_locations[0])
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits as load  # a version with another layout

    digits = load()
    return digits.data, digits.target.astype(np.int32)
