"""Hugging Face data sets with an image column: parquet, or `save_to_disk` folders."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.options import Fraction, Width, checked
from fedjax_sim.data.class_folders import split_off
from fedjax_sim.data.dataset import Origin, assembled
from fedjax_sim.data.files import holds, look
from fedjax_sim.data.groups import numbered
from fedjax_sim.data.image_files import decode_bytes
from fedjax_sim.data.places import given_path

PARQUET = Origin(
    "parquet",
    "SPLIT-*.parquet (there, in data/ or in a folder of the configuration), or the "
    "folder of datasets' save_to_disk: SPLIT/*.arrow",
    "https://huggingface.co/docs/datasets/image_dataset",
)
_FOLDERS = (".", "data")
_IMAGES = ("image", "img", "images", "pixel_values")
_LABELS = ("label", "labels", "fine_label", "character", "target")


class Rows(NamedTuple):
    """A split as it is stored."""

    images: list[bytes]
    labels: np.ndarray  # int64 [n]
    groups: np.ndarray | None  # [n]
    num_classes: int | None  # None: the file does not say


def split_files(root: Path, split: str) -> list[Path]:
    """Returns the files of a split, in their order; none if there are none."""
    pattern = re.compile(rf"{re.escape(split)}([-_.].*)?\.parquet")
    configurations = [one for one in sorted(root.iterdir()) if one.is_dir()]
    for folder in [root / name for name in _FOLDERS] + configurations:
        if not folder.is_dir():
            continue
        if folder.name == split and list(folder.glob("*.arrow")):
            return _in_order(folder)
        found = [one for one in folder.iterdir() if pattern.fullmatch(one.name)]
        if found:
            return sorted(found)
    return []


def _in_order(folder: Path) -> list[Path]:
    """The files of a saved split: its state names them, in their order."""
    state = folder / "state.json"
    try:
        names = [
            one["filename"] for one in json.loads(state.read_text())["_data_files"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PARQUET.error(
            f"'{folder}' is no folder of save_to_disk: {state.name} cannot be read"
        ) from error
    return [folder / name for name in names]


def read_rows(
    files: list[Path], image: str | None, label: str | None, group: str | None
) -> Rows:
    """Reads the columns asked for; None: the usual names.

    Raises:
      InputError: pyarrow is not installed, or a file or column is not what it should.
    """
    tables = [_table(path) for path in files]
    names = tables[0].column_names
    image = _column(image, _IMAGES, names, "image_column", files[0])
    label = _column(label, _LABELS, names, "label_column", files[0])
    if group is not None:
        _column(group, (), names, "group_column", files[0])
    images: list[bytes] = []
    labels: list[np.ndarray] = []
    groups: list[Any] = []
    for path, table in zip(files, tables, strict=True):
        try:
            images += [row["bytes"] for row in table.column(image).to_pylist()]
            labels.append(table.column(label).to_numpy().astype(np.int64))
            groups += table.column(group).to_pylist() if group else []
        except (TypeError, KeyError, ValueError) as error:
            raise PARQUET.error(
                f"'{path}': columns {image} of encoded images and {label} of whole "
                f"numbers expected ({error})"
            ) from error
    if any(content is None for content in images):
        raise PARQUET.error(
            f"'{files[0]}' names its images by path: embed them "
            "(datasets.Dataset.save_to_disk or to_parquet of decoded images)"
        )
    return Rows(
        images,
        np.concatenate(labels),
        numbered(groups) if group else None,
        _num_classes(tables[0].schema.metadata, label),
    )


def _table(path: Path) -> Any:
    try:
        import pyarrow as arrow  # Optional, and slow to import.
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise InputError(
            "data set 'parquet' needs pyarrow: pip install 'fedjax_sim[parquet]'"
        ) from error
    try:
        if path.suffix == ".arrow":
            # Not by its path: pyarrow maps that into memory, and where the file was cut
            # short the process dies.
            table = ipc.open_stream(path.read_bytes()).read_all()
        else:
            table = parquet.read_table(path)
        table.validate(full=True)  # else a flipped bit points anywhere
        return table
    except (OSError, arrow.ArrowException) as error:
        raise PARQUET.error(
            f"cannot read '{path}'; it looks like {look(path)} "
            f"({str(error).splitlines()[0]})"
        ) from error


def _column(
    asked: str | None, usual: tuple[str, ...], names: list[str], key: str, path: Path
) -> str:
    if asked is not None:
        if asked not in names:
            raise InputError(
                f"config.data.{key} = {asked!r} is no column of '{path}'; "
                f"{did_you_mean(asked, names)}"
            )
        return asked
    for name in usual:
        if name in names:
            return name
    raise PARQUET.error(
        f"'{path}' has the columns {', '.join(names)}; say which with config.data.{key}"
    )


def _num_classes(metadata: dict[bytes, bytes] | None, label: str) -> int | None:
    """The classes that the library's own description of the columns names."""
    if not metadata or b"huggingface" not in metadata:
        return None
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    names = features.get(label, {}).get("names")
    return len(names) if names else None


@checked("data")
def load_parquet(
    *,
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    size: Width | None = None,
    grey: bool | None = None,
    test_share: Fraction = 0.0,
) -> Dataset:
    """A Hugging Face data set of encoded images, as it is downloaded or saved.

    Args:
      data_dir: folder that holds the files.
      train_split: of the training images.
      test_split: of the test images.
      image_column: None: image, img, images or pixel_values.
      label_column: None: label, labels, fine_label, character or target.
      group_column: whose sample it is, such as writer_id; None: not known.
      size: height and width to scale images to (bicubic); None: all must have one size.
      grey: one channel instead of three; None: as the first image is.
      test_share: of each class, instead of a test split; drawn with a fixed seed.
    """
    root = given_path(data_dir, PARQUET)
    if not root.is_dir():
        raise PARQUET.error(f"'{data_dir}' is no folder but {look(root)}")
    columns = (image_column, label_column, group_column)
    saved = (root / "state.json").is_file()  # one split of save_to_disk
    if saved and test_share == 0:
        raise PARQUET.error(
            f"'{data_dir}' is one split; config.data.test_share=0.2 takes a fifth of "
            "each class for the test"
        )
    files = _in_order(root) if saved else _files(root, train_split)
    train = read_rows(files, *columns)
    if test_share > 0:
        tested = split_off(train.labels, test_share)
        train, test = _chosen(train, ~tested), _chosen(train, tested)
    else:
        test = read_rows(_files(root, test_split), *columns[:2], None)

    def decoded(rows: Rows, split: str, shape, channels: int | None) -> np.ndarray:
        return decode_bytes(
            [content.__bytes__ for content in rows.images],
            lambda k: f"image {k} of the split '{split}' in '{root}'",
            shape,
            PARQUET,
            resize=size is not None,
            channels=channels,
        )

    channels = None if grey is None else 1 if grey else 3
    images = decoded(train, train_split, size, channels)
    test_images = decoded(test, test_split, images.shape[1:3], images.shape[-1])
    largest = int(max(train.labels.max(initial=0), test.labels.max(initial=0)))
    return assembled(
        PARQUET,
        (images, train.labels),
        (test_images, test.labels),
        train.num_classes or largest + 1,
        groups=train.groups,
    )


def _files(root: Path, split: str) -> list[Path]:
    files = split_files(root, split)
    if not files:
        raise PARQUET.error(
            f"'{root}' has no files of the split '{split}' (config.data.train_split, "
            f"test_split; or config.data.test_share=0.2); {holds(root)}"
        )
    return files


def _chosen(rows: Rows, which: np.ndarray) -> Rows:
    return Rows(
        [content for content, taken in zip(rows.images, which, strict=True) if taken],
        rows.labels[which],
        None if rows.groups is None else rows.groups[which],
        rows.num_classes,
    )
