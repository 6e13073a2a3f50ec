"""EMNIST (Cohen et al. 2017), of which the .mat files alone tell who wrote what."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.options import checked
from fedjax_sim.data.archives import Place
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import content, look
from fedjax_sim.data.idx import Official, complete, has_pairs, read_pairs
from fedjax_sim.data.mnist import read_csv
from fedjax_sim.data.places import nothing_found, places

EMNIST = Origin(
    "emnist",
    "emnist-SPLIT-train|test-images-idx3-ubyte[.gz] with their labels (or gzip.zip as "
    "it is), emnist-SPLIT.mat, or emnist-SPLIT-train|test.csv",
    "https://www.nist.gov/itl/products-and-services/emnist-dataset",
)
_FOLDERS = ("EMNIST/raw", "emnist", "gzip", "EMNIST/raw/gzip", "matlab", ".")
_ARCHIVES = ("gzip.zip", "matlab.zip", "EMNIST/raw/gzip.zip", "emnist/gzip.zip")

_COMPRESSED, _CHUNK = 15, 1 << 16  # of MATLAB's elements; bytes unpacked at a time

Split = Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"]
# From the page of EMNIST.
_OFFICIAL = {
    "balanced": Official(47, 112_800, 18_800),
    "byclass": Official(62, 697_932, 116_323),
    "bymerge": Official(47, 697_932, 116_323),
    # There are two releases of the letters.
    "letters": Official(26, 124_800, 20_800, first_label=1, other=(88_800, 14_800)),
    "digits": Official(10, 240_000, 40_000),
    "mnist": Official(10, 60_000, 10_000),
}


def read_mat(path: Place, official: Official) -> Dataset:
    """Reads emnist-SPLIT.mat: the bytes of the IDX files, and the writers."""
    from scipy.io import loadmat  # Slow to import, and only this needs it.

    found = content(path, EMNIST)
    try:
        _check_packed(found)
        table = loadmat(io.BytesIO(found), simplify_cells=True)
        splits = [table["dataset"][name] for name in ("train", "test")]
        parts: list[Any] = []
        for split in splits:
            images = np.ascontiguousarray(split["images"]).reshape(-1, 28, 28)
            parts += [images, np.ravel(split["labels"])]
        writers = np.ravel(splits[0]["writers"])
    # The library has many ways to fail on a damaged file.
    except Exception as error:
        raise EMNIST.error(
            f"'{path}' is not a MATLAB file of EMNIST, it looks like {look(found)} "
            f"({type(error).__name__}: {error})"
        ) from error
    if len(writers) != len(parts[1]):
        raise EMNIST.error(
            f"'{path}': {len(parts[1])} training labels but {len(writers)} writers"
        )
    dataset = complete(parts, EMNIST, official)
    return dataset._replace(train_groups=writers.astype(np.int32))


def _check_packed(found: bytes) -> None:
    """Unpacks what a MATLAB file holds packed, as the official ones do, for its check.

    On a flipped bit the library may end the process.

    Raises:
      ValueError, zlib.error: it is cut short or damaged.
    """
    place = 128  # behind the head
    while place + 8 <= len(found):
        kind, size = struct.unpack_from("<II", found, place)
        place += 8
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            for start in range(place, place + size, _CHUNK):
                unpacking.decompress(found[start : min(start + _CHUNK, place + size)])
            if not unpacking.eof:
                raise ValueError("it is cut short")
        place += size


def read_split(data_dir: str | None, split: str, official: Official) -> Dataset:
    """Reads one split in whichever of its three forms there is."""
    stem = f"emnist-{split}"
    prefixes = (f"{stem}-train", f"{stem}-test")
    for place in places(data_dir, EMNIST, _ARCHIVES):
        for name in _FOLDERS:
            folder = place / name
            if has_pairs(folder, prefixes):
                return read_pairs(folder, prefixes, EMNIST, official)
            if (folder / f"{stem}.mat").is_file():
                return read_mat(folder / f"{stem}.mat", official)
            if (folder / f"{stem}-train.csv").is_file():
                tables = (f"{stem}-train.csv", f"{stem}-test.csv")
                return read_csv(folder, tables, EMNIST, official)
    names = (f"{stem}-train-images-idx3-ubyte", f"{stem}.mat", f"{stem}-train.csv")
    raise nothing_found(data_dir, (*_ARCHIVES[:2], *names), EMNIST)


@checked("data")
def load_emnist(*, data_dir: str | None = None, split: Split = "balanced") -> Dataset:
    """EMNIST, grey images of 28x28 (Cohen et al. 2017).

    Images keep the orientation of the files, which is transposed; DROP's code
    trains and triggers them like this. Read from a .mat file, samples know their
    writers, as the partition `by_writer` needs.

    Args:
      data_dir: folder that holds the files.
      split: `balanced`, 112 800 + 18 800 images of 47 classes (DROP's code);
        `byclass`, 697 932 + 116 323 of 62; `bymerge`, the same of 47; `letters`,
        124 800 + 20 800 (or 88 800 + 14 800) of 26, here 0 to 25; `digits`,
        240 000 + 40 000 of 10; `mnist`, 60 000 + 10 000 of 10.
    """
    return read_split(data_dir, split, _OFFICIAL[split])
