"""The table of data sets and the one function that loads them."""

from functools import partial
from typing import Any

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.entry import Entry, Table
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.data.cifar10 import load_cifar10
from fedjax_sim.data.cifar100 import load_cifar100
from fedjax_sim.data.cinic10 import load_cinic10
from fedjax_sim.data.digits import load_digits
from fedjax_sim.data.emnist import load_emnist
from fedjax_sim.data.gtsrb import load_gtsrb
from fedjax_sim.data.image_folder import load_image_folder
from fedjax_sim.data.leaf import load_leaf
from fedjax_sim.data.mnist import load_fashion_mnist, load_mnist
from fedjax_sim.data.npz import load_npz
from fedjax_sim.data.parquet import load_parquet
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.data.tfds import load_tfds
from fedjax_sim.data.tff_hdf5 import load_tff_hdf5
from fedjax_sim.data.tiny_imagenet import load_tiny_imagenet

_TFDS = "tfds:"
GIVEN = "arrays"  # the caller of `run` has the data


@checked("data")
def given_by_the_caller() -> Dataset:
    """Stands for a data set that `run(config, workdir, dataset=...)` is given."""
    raise InputError(
        f"config.data.name = '{GIVEN}': the data set must be given, "
        "run(config, workdir, dataset=...)"
    )


class _Sources(Table):
    """The data sets, and `tfds:NAME` for those of tensorflow-datasets."""

    def find(self, name: str) -> Entry:
        """Returns the entry of `name`: a key of the table or `tfds:NAME`."""
        if name.startswith(_TFDS):
            loader = partial(load_tfds, name.removeprefix(_TFDS))
            return Entry(loader, paper="tensorflow.org/datasets")
        return super().find(name)


# Every loader is f(*, data_dir: str | None = None, <typed options>) -> Dataset.
SOURCES = _Sources(
    "data",
    "data",
    {
        "cifar10": Entry(load_cifar10, "Krizhevsky 2009"),
        "cifar100": Entry(load_cifar100, "Krizhevsky 2009"),
        "cinic10": Entry(load_cinic10, "Darlow et al. 2018"),
        "digits": Entry(load_digits, "Alpaydin and Kaynak 1998"),
        "emnist": Entry(load_emnist, "Cohen et al. 2017"),
        "fashion_mnist": Entry(load_fashion_mnist, "Xiao et al. 2017"),
        "gtsrb": Entry(load_gtsrb, "Stallkamp et al. 2012"),
        "image_folder": Entry(load_image_folder, "-"),
        "leaf": Entry(load_leaf, "Caldas et al. 2018"),
        "mnist": Entry(load_mnist, "LeCun et al. 1998"),
        "npz": Entry(load_npz, "-"),
        "parquet": Entry(load_parquet, "Lhoest et al. 2021 (Hugging Face datasets)"),
        "synthetic": Entry(load_synthetic, "-"),
        "tff_hdf5": Entry(load_tff_hdf5, "Reddi et al. 2021"),
        "tiny_imagenet": Entry(load_tiny_imagenet, "Le and Yang 2015"),
        GIVEN: Entry(given_by_the_caller, "-"),
    },
)


def load(name: str, *, data_dir: str | None = None, **given: Any) -> Dataset:
    """Loads a data set; the options are the keyword arguments of its loader."""
    entry = SOURCES.find(name)
    if "data_dir" in entry.options:
        given["data_dir"] = data_dir
    try:
        return entry.factory(**given)
    except OSError as error:  # a folder that may not be listed, a disk that fails
        raise InputError(f"data set '{name}': {error}") from error
