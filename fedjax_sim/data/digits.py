"""scikit-learn's handwritten digits: real images that need no download."""

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
    try:
        from sklearn import datasets  # Slow to import, and only this set needs it.
    except ImportError as error:
        raise InputError(
            "data set 'digits' comes with scikit-learn, which is not installed: "
            "pip install scikit-learn (https://scikit-learn.org)"
        ) from error
    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
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
