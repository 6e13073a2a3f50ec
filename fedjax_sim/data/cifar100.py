"""CIFAR-100 from the official "python version" or "binary version"."""

from typing import Literal

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data.archives import Place
from fedjax_sim.data.cifar_pickles import read_binary, read_pickle
from fedjax_sim.data.dataset import Origin, Split, assembled
from fedjax_sim.data.places import located

CIFAR100 = Origin(
    "cifar100",
    "cifar-100-python/ with train and test, cifar-100-binary/ with train.bin and "
    "test.bin, or cifar-100-python|binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-100 python version)",
)
_CLASSES = {"coarse": 20, "fine": 100}  # in the order of the binary version


def read_folder(
    folder: Place, labels: str, *, num_train: int, num_test: int, ends: str = ""
) -> Dataset:
    """Reads the files `train` and `test` in `folder`; the counts are those expected."""

    def read(name: str) -> Split:
        path = folder / (name + ends)
        if ends:
            return read_binary(path, 2, list(_CLASSES).index(labels), CIFAR100)
        return read_pickle(path, f"{labels}_labels".encode(), CIFAR100)

    return assembled(
        CIFAR100,
        read("train"),
        read("test"),
        _CLASSES[labels],
        image_shape=(32, 32, 3),
        num_train=num_train,
        num_test=num_test,
    )


@checked("data")
def load_cifar100(
    *, data_dir: str | None = None, labels: Literal["fine", "coarse"] = "fine"
) -> Dataset:
    """CIFAR-100, 50 000 + 10 000 colour images of 32x32 in the official order.

    Args:
      data_dir: folder that holds the files.
      labels: `fine`, 100 classes; `coarse`, the 20 they are grouped into.
    """
    first = located(
        data_dir,
        ("cifar-100-python/train", "cifar-100-binary/train.bin", "train.bin", "train"),
        CIFAR100,
        ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    )
    return read_folder(
        first.parent, labels, num_train=50_000, num_test=10_000, ends=first.suffix
    )
