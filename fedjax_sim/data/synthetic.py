"""Made-up images of any size and number that a small network can learn."""

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Seed, Width, checked

_GRID = 4  # a class is a random picture of 4x4 cells: coarse enough to convolve
_CHUNK_BYTES = 1 << 24
_LARGEST = 32 * 10**9  # bytes of a data set that is made up in memory


@checked("data")
def load_synthetic(
    *,
    data_dir: str | None = None,
    num_train: Count = 2_000,
    num_test: Count = 500,
    num_classes: Count = 10,
    height: Width = 32,
    width: Width = 32,
    channels: Width = 3,
    noise: Fraction = 0.5,
    seed: Seed = 0,
) -> Dataset:
    """Images are (1 - noise) * picture of the class + noise * uniform noise.

    Classes have equal sizes (up to one) in a random order. The same arguments give
    the same bytes on every machine.

    Args:
      data_dir: not read.
      num_train, num_test: training and test images.
      num_classes: classes, each with a picture of its own.
      height, width, channels: size of the images.
      noise: share of the noise in an image.
      seed: of pictures, noise and order.

    Raises:
      InputError: an option outside its range, or more images than memory.
    """
    del data_dir  # Nothing is read.
    # Pictures are two bytes a value, and four while they are made.
    size = (num_train + num_test + 4 * num_classes) * height * width * channels
    if size > _LARGEST:
        raise InputError(
            f"config.data.num_train = {num_train}, num_test = {num_test}, "
            f"num_classes = {num_classes}, height = {height}, width = {width}, "
            f"channels = {channels} make {size / 1e9:.3g} GB of images; allowed: at "
            f"most {_LARGEST // 10**9} GB"
        )
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (num_classes, _GRID, _GRID, channels), dtype=np.uint8)
    rows = np.arange(height) * _GRID // height
    columns = np.arange(width) * _GRID // width
    pictures: np.ndarray = cells[:, rows][:, :, columns]
    # In 1/256 steps and integers: fast, and exact on every machine.
    weight = round(noise * 256)
    pictures = pictures.astype(np.uint16) * (256 - weight)
    chunk = max(1, _CHUNK_BYTES // (height * width * channels))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(count, dtype=np.int32) % num_classes)
        images = np.empty((count, height, width, channels), np.uint8)
        for start in range(0, count, chunk):
            part = images[start : start + chunk]
            mixed = rng.integers(0, 256, part.shape, dtype=np.uint8).astype(np.uint16)
            mixed *= weight
            mixed += pictures[labels[start : start + chunk]]
            part[...] = mixed >> 8
        return images, labels

    return Dataset("synthetic", *draw(num_train), *draw(num_test), num_classes)
