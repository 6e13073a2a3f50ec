"""The table of data sets and the one function that loads them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.data.cifar10 import load_cifar10
from fedjax_sim.data.cinic10 import load_cinic10
from fedjax_sim.data.dataset import Dataset
from fedjax_sim.data.digits import load_digits
from fedjax_sim.data.gtsrb import load_gtsrb
from fedjax_sim.data.idx import load_emnist, load_fashion_mnist, load_mnist
from fedjax_sim.data.synthetic import load_synthetic
from fedjax_sim.data.tfds import load_tfds

# Every loader is f(*, data_dir: str | None = None, <typed options>) -> Dataset.
SOURCES: dict[str, Callable[..., Dataset]] = {
    "cifar10": load_cifar10,
    "cinic10": load_cinic10,
    "digits": load_digits,
    "emnist": load_emnist,
    "fashion_mnist": load_fashion_mnist,
    "gtsrb": load_gtsrb,
    "mnist": load_mnist,
    "synthetic": load_synthetic,
}
_TFDS = "tfds:"


def loader(name: str) -> Callable[..., Dataset]:
    """Returns the loader of `name`: a key of SOURCES or `tfds:NAME`."""
    if name.startswith(_TFDS):
        return partial(load_tfds, name.removeprefix(_TFDS))
    if name not in SOURCES:
        raise InputError(
            f"config.data.name = {name!r} does not exist; "
            f"{did_you_mean(name, SOURCES)}, or tfds:NAME"
        )
    return SOURCES[name]


def options(name: str) -> dict[str, inspect.Parameter]:
    """Returns the options of a data set with their types and defaults."""
    parameters = dict(inspect.signature(loader(name)).parameters)
    del parameters["data_dir"]
    return parameters


def load(name: str, *, data_dir: str | None = None, **given: Any) -> Dataset:
    """Loads a data set; the options are the keyword arguments of its loader."""
    allowed = options(name)
    for key in given:
        if key not in allowed:
            hint = did_you_mean(key, allowed) if allowed else "it has none"
            raise InputError(f"data set '{name}' has no option '{key}': {hint}")
    return loader(name)(data_dir=data_dir, **given)
