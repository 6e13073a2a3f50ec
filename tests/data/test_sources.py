"""Loaders on tiny files in the official formats, whole and damaged."""

import gzip
import importlib
import io
import os
import pickle
import shutil
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import REQUIRED
from fedjax_sim.data import cifar10, cinic10, gtsrb, idx, mnist, sources
from fedjax_sim.data.dataset import Origin, verified
from fedjax_sim.experiment.config import options

RNG = np.random.default_rng(0)
NEEDS_FILES = [
    "cifar10",
    "cifar100",
    "cinic10",
    "emnist",
    "fashion_mnist",
    "gtsrb",
    "image_folder",
    "leaf",
    "mnist",
    "npz",
    "parquet",
    "tff_hdf5",
    "tiny_imagenet",
]


# ------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", NEEDS_FILES)
def test_a_missing_or_wrong_data_dir_names_the_official_source(name, tmp_path):
    for data_dir in (None, str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(InputError) as caught:
            sources.load(name, data_dir=data_dir)
        message = str(caught.value)
        assert "\n" not in message
        assert f"'{name}'" in message and "--config.data.data_dir=DIR" in message
        assert "expected" in message and "http" in message
        assert data_dir is None or data_dir in message


def test_unknown_names_and_options():
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        sources.load("cifar")
    with pytest.raises(InputError, match=r"data\.nois is not .* did you mean 'noise'"):
        sources.load("synthetic", nois=1.0)
    with pytest.raises(InputError, match=r"data\.split is not .*; allowed: data_dir"):
        sources.load("digits", split="x")
    with pytest.raises(InputError, match=r"split = 'letter' .*mean 'letters'"):
        sources.load("emnist", data_dir=".", split="letter")


def test_options_are_typed():
    for name in [*sources.SOURCES, "tfds:mnist"]:
        own = options("data", name)
        assert "data_dir" not in own
        for option in own.values():
            assert option.annotation is not Any
            assert option.default is not REQUIRED
    assert list(options("data", "cinic10")) == ["use_valid"]


# ------------------------------------------------------------------ built-in sets


def test_digits_have_their_size_and_are_the_same_again():
    digits = sources.load("digits")
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 255
    assert digits.train_labels.dtype == np.int32
    sizes = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    np.testing.assert_allclose(np.bincount(digits.test_labels), sizes / 5, atol=1)
    official = datasets.load_digits()
    sums = [images.sum() for images in (digits.train_images, digits.test_images)]
    expected = np.rint(official.images * (255 / 16)).astype(np.uint8)
    assert sum(sums) == expected.sum()
    is_test = np.zeros(len(expected), bool)
    is_test[np.argsort(official.target, kind="stable")[::5]] = True
    np.testing.assert_array_equal(digits.test_images[..., 0], expected[is_test])
    np.testing.assert_array_equal(digits.train_labels, official.target[~is_test])
    again = sources.load("digits")
    np.testing.assert_array_equal(again.test_images, digits.test_images)


def test_synthetic_images_have_the_asked_size_and_follow_the_seed():
    options = {
        "num_train": 203,
        "num_test": 100,
        "num_classes": 4,
        "height": 9,
        "width": 14,
        "channels": 2,
        "noise": 0.6,
    }
    made = sources.load("synthetic", **options)
    assert made.train_images.shape == (203, 9, 14, 2)
    assert made.train_images.dtype == np.uint8 and made.num_classes == 4
    assert np.ptp(np.bincount(made.train_labels)) <= 1
    again = sources.load("synthetic", **options)
    np.testing.assert_array_equal(made.train_images, again.train_images)
    other = sources.load("synthetic", seed=1, **options)
    assert (made.train_images != other.train_images).mean() > 0.5
    # The nearest class mean is right, so there is something to learn.
    means = np.stack(
        [made.train_images[made.train_labels == c].mean(axis=0) for c in range(4)]
    )
    distances = ((made.test_images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == made.test_labels).mean() > 0.95


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_train", 0), ("width", -1), ("noise", 1.5), ("noise", -0.1), ("seed", -1)],
)
def test_impossible_synthetic_options_are_refused(key, value):
    with pytest.raises(InputError, match=f"config.data.{key} = {value} must"):
        sources.load("synthetic", **{key: value})


@pytest.mark.parametrize("key", ["num_train", "num_classes", "height", "width"])
@pytest.mark.parametrize("value", [1_000_000, 10**12])
def test_synthetic_images_beyond_memory_are_refused(key, value):
    sizes = {"height": 1000, "width": 1000, key: value}
    with pytest.raises(InputError, match=f"{key} = {value}") as problem:
        sources.load("synthetic", **sizes)
    assert "\n" not in str(problem.value)


# -------------------------------------------------------------------------- IDX


def _idx_bytes(values: np.ndarray) -> bytes:
    head = struct.pack(">BBBB", 0, 0, 8, values.ndim)
    return head + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def _write_idx_set(folder, prefixes, num_classes, zipped):
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for prefix, count in zip(prefixes, (20, 10), strict=True):
        images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % num_classes).astype(np.uint8)
        written[prefix] = images, labels
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = _idx_bytes(values)
            path = folder / f"{prefix}-{kind}-ubyte"
            if zipped:
                path = path.with_name(path.name + ".gz")
                content = gzip.compress(content)
            path.write_bytes(content)
    return written


def _read_idx_set(folder, prefixes=("train", "t10k"), **changes):
    official = idx.Official(10, 20, 10)._replace(**changes)
    return idx.read_pairs(folder, prefixes, mnist.MNIST, official)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_plain_and_zipped(tmp_path, zipped):
    written = _write_idx_set(tmp_path, ("train", "t10k"), 10, zipped)
    read = _read_idx_set(tmp_path, class_sizes=(2,) * 10)
    np.testing.assert_array_equal(read.train_images[..., 0], written["train"][0])
    np.testing.assert_array_equal(read.test_labels, written["t10k"][1])
    assert read.train_images.shape == (20, 28, 28, 1)
    assert read.train_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw"), ("mnist", ".")],
)
def test_idx_folders_and_official_counts(tmp_path, name, folder):
    _write_idx_set(tmp_path / folder, ("train", "t10k"), 10, True)
    with pytest.raises(InputError, match="20 training images found, 60000 expected"):
        sources.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("split", "count"), [("balanced", 112800), ("byclass", 697932)]
)
def test_emnist_splits_have_their_official_counts(tmp_path, split, count):
    prefixes = (f"emnist-{split}-train", f"emnist-{split}-test")
    written = _write_idx_set(tmp_path / "gzip", prefixes, 40, True)
    with pytest.raises(InputError, match=f"20 training images found, {count} expected"):
        sources.load("emnist", data_dir=str(tmp_path), split=split)
    read = _read_idx_set(tmp_path / "gzip", prefixes, num_classes=47)
    np.testing.assert_array_equal(read.train_images[..., 0], written[prefixes[0]][0])


def test_idx_of_another_set_with_the_same_names(tmp_path):
    _write_idx_set(tmp_path, ("train", "t10k"), 10, False)
    with pytest.raises(InputError, match="another data set with the same names"):
        _read_idx_set(tmp_path, class_sizes=(3, 1) + (2,) * 8)


_WHOLE = _idx_bytes(np.zeros((20, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not an IDX file"),
        ("train-images-idx3-ubyte", b"PNG....", "not an IDX file"),
        ("train-images-idx3-ubyte", _WHOLE[:9], "truncated inside its head"),
        ("train-images-idx3-ubyte", _WHOLE[:-1], "truncated or damaged"),
        ("train-images-idx3-ubyte", _WHOLE + b"x", "truncated or damaged"),
        # No time stamp: the workers of a parallel run compare the names of tests.
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(_WHOLE, mtime=0)[:-9],
            "cannot read",
        ),
        (
            "train-images-idx3-ubyte.gz",
            b"<!DOCTYPE html><html>",
            "not an IDX file .* looks like a web page",
        ),
        (
            "train-images-idx3-ubyte",
            _idx_bytes(np.zeros(20, np.uint8)),
            "1 dimensions, 3 expected",
        ),
        (
            "train-images-idx3-ubyte",
            _idx_bytes(np.zeros((20, 8, 8), np.uint8)),
            r"uint8\[28, 28, 1\] expected",
        ),
        (
            "train-labels-idx1-ubyte",
            _idx_bytes(np.zeros(19, np.uint8)),
            "20 training images but 19 training labels",
        ),
        (
            "train-labels-idx1-ubyte",
            _idx_bytes(np.full(20, 10, np.uint8)),
            r"labels lie in 10\.\.10, 0\.\.9 expected",
        ),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, content, message):
    _write_idx_set(tmp_path, ("train", "t10k"), 10, name.endswith(".gz"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        _read_idx_set(tmp_path)
    assert "official source: http" in str(caught.value)


def test_a_data_set_needs_images():
    empty = np.zeros((0, 8, 8, 1), np.uint8)
    made = Dataset("x", empty, np.zeros(0), empty, np.zeros(0), 2)
    with pytest.raises(InputError, match="no training images"):
        verified(
            made, Origin("x", "", ""), image_shape=None, num_train=None, num_test=None
        )


# ---------------------------------------------------------------------- CIFAR-10


def _cifar_bytes(images: np.ndarray, labels: list[int]) -> bytes:
    data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    # Protocol 3 keeps bytes apart from text and arrays in their classic form.
    batch = {b"data": np.ascontiguousarray(data), b"labels": labels}
    return pickle.dumps(batch, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )


def _write_cifar(folder):
    folder.mkdir(exist_ok=True)
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = [i % 10 for i in range(12)]
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)]):
        part = slice(2 * number, 2 * number + 2)
        (folder / name).write_bytes(_cifar_bytes(images[part], labels[part]))
    (folder / "test_batch").write_bytes(_cifar_bytes(images[10:], labels[10:]))
    return images, labels


def test_cifar10_batches_are_read_in_order(tmp_path):
    images, labels = _write_cifar(tmp_path)
    read = cifar10.read_folder(tmp_path, num_train=10, num_test=2)
    np.testing.assert_array_equal(read.train_images, images[:10])
    np.testing.assert_array_equal(read.test_images, images[10:])
    assert read.train_labels.tolist() == labels[:10] and read.num_classes == 10
    assert read.train_images.flags.c_contiguous


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_cifar10_folders_and_official_counts(tmp_path, folder):
    _write_cifar(tmp_path / folder)
    with pytest.raises(InputError, match="10 training images found, 50000 expected"):
        sources.load("cifar10", data_dir=str(tmp_path))


class _Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_cifar10_pickles_cannot_run_code(tmp_path):
    _write_cifar(tmp_path)
    witness = tmp_path / "witness"
    for attack in (
        _Malicious(os.mkdir, str(witness)),
        _Malicious(eval, f"__import__('os').mkdir({str(witness)!r})"),
        _Malicious(importlib.import_module, "this"),
        _Malicious(np.fromfile, str(tmp_path / "test_batch")),
    ):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(attack))
        with pytest.raises(InputError, match="which the official files do not"):
            cifar10.read_folder(tmp_path, num_train=10, num_test=2)
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        _cifar_bytes(np.zeros((2, 32, 32, 3), np.uint8), [0, 1])[:-30],
        _cifar_bytes(np.zeros((2, 32, 32, 3), np.uint8), [0, 1, 2]),
        _cifar_bytes(np.zeros((2, 16, 32, 3), np.uint8), [0, 1]),
        _cifar_bytes(np.zeros((2, 32, 32, 3), np.float32), [0, 1]),
        pickle.dumps([1, 2]),
        pickle.dumps({b"labels": [1]}),
        pickle.dumps({b"data": 3, b"labels": [1]}),
    ],
)
def test_damaged_cifar10_files_are_refused(tmp_path, content):
    _write_cifar(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read '.*data_batch_3'"):
        cifar10.read_folder(tmp_path, num_train=10, num_test=2)


def test_a_missing_cifar10_batch_is_named(tmp_path):
    _write_cifar(tmp_path)
    (tmp_path / "test_batch").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*test_batch'"):
        cifar10.read_folder(tmp_path, num_train=10, num_test=2)


# ---------------------------------------------------------------------- CINIC-10


def _write_cinic(folder):
    written = {}
    for split in ("train", "valid", "test"):
        for name in cinic10.CLASSES:
            path = folder / split / name
            path.mkdir(parents=True)
            for number in range(2):
                image = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(image).save(path / f"{number}.png")
                written[split, name, number] = image
    return written


def test_cinic10_joins_its_validation_split_if_asked(tmp_path):
    written = _write_cinic(tmp_path)
    joined = cinic10.read_folder(tmp_path, use_valid=True, num_per_split=20)
    alone = cinic10.read_folder(tmp_path, use_valid=False, num_per_split=20)
    assert joined.train_images.shape == (40, 32, 32, 3)
    np.testing.assert_array_equal(joined.train_images[:20], alone.train_images)
    np.testing.assert_array_equal(alone.train_labels, np.repeat(np.arange(10), 2))
    np.testing.assert_array_equal(
        joined.train_images[23], written["valid", "automobile", 1]
    )
    np.testing.assert_array_equal(alone.test_images[-1], written["test", "truck", 1])


@pytest.mark.parametrize("folder", ["cinic-10", "CINIC-10", "."])
def test_cinic10_folders_and_official_counts(tmp_path, folder):
    _write_cinic(tmp_path / folder)
    with pytest.raises(InputError, match="40 training images found, 180000 expected"):
        sources.load("cinic10", data_dir=str(tmp_path))


def test_damaged_cinic10_folders_are_refused(tmp_path):
    _write_cinic(tmp_path)

    def read():
        return cinic10.read_folder(tmp_path, use_valid=True, num_per_split=20)

    victim = tmp_path / "train" / "cat" / "1.png"
    content = victim.read_bytes()
    victim.write_bytes(content[:-200])
    with pytest.raises(InputError, match=r"cannot read '.*cat/1.png'"):
        read()
    Image.new("RGB", (30, 32)).save(victim)
    with pytest.raises(InputError, match="30x32 pixels, 32x32 expected"):
        read()
    victim.unlink()
    with pytest.raises(InputError, match="39 training images found, 40 expected"):
        read()
    for file in (tmp_path / "valid" / "dog").iterdir():
        file.unlink()
    (tmp_path / "valid" / "dog").rmdir()
    with pytest.raises(InputError, match=r"folder '.*dog' does not exist"):
        read()


# ------------------------------------------------------------------------- GTSRB


def _write_gtsrb(root):
    """One training image per class, five test images with labels 0..4."""
    folder = root / "GTSRB"
    for label in range(43):
        path = folder / "Training" / f"{label:05d}"
        path.mkdir(parents=True)
        Image.new("RGB", (20 + label, 25), (label, 0, 0)).save(path / "00000.ppm")
    (folder / "Final_Test" / "Images").mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number in range(5):
        name = f"{number:05d}.ppm"
        Image.new("RGB", (40, 32), (0, number, 0)).save(
            folder / "Final_Test" / "Images" / name
        )
        lines.append(f"{name};40;32;0;0;0;0;{number}")
    (root / "GT-final_test.csv").write_text("\r\n".join(lines) + "\r\n")
    return folder, root / "GT-final_test.csv"


def _read_gtsrb(folder, table, test_to_train=0):
    train = gtsrb.train_files(folder / "Training")
    test = gtsrb.listed_files(table, folder / "Final_Test" / "Images", "Filename")
    return gtsrb.read_files(
        train, test, test_to_train=test_to_train, num_train=43, num_test=5
    )


def test_gtsrb_moves_the_last_test_images(tmp_path):
    folder, table = _write_gtsrb(tmp_path)
    read = _read_gtsrb(folder, table, test_to_train=2)
    assert read.train_images.shape == (45, 32, 32, 3)
    assert read.train_labels.tolist() == [*range(43), 4, 3]
    assert read.train_images[[0, 42, 43, 44], 9, 9].tolist() == [
        [0, 0, 0],
        [42, 0, 0],
        [0, 4, 0],
        [0, 3, 0],
    ]
    assert read.test_labels.tolist() == [0, 1, 2]
    kept = _read_gtsrb(folder, table)
    assert kept.test_labels.tolist() == [0, 1, 2, 3, 4] and len(kept.train_labels) == 43


def test_gtsrb_resizes_bicubically(tmp_path):
    folder, table = _write_gtsrb(tmp_path)
    image = Image.fromarray(RNG.integers(0, 256, (50, 41, 3), dtype=np.uint8))
    image.save(folder / "Training" / "00007" / "00000.ppm")
    read = _read_gtsrb(folder, table)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(read.train_images[7], np.asarray(expected))


@pytest.mark.parametrize("outer", [".", "gtsrb"])
def test_gtsrb_folders_and_official_counts(tmp_path, outer):
    _write_gtsrb(tmp_path / outer)
    with pytest.raises(InputError, match="43 training images found, 26640 expected"):
        sources.load("gtsrb", data_dir=str(tmp_path))
    with pytest.raises(InputError, match="test_to_train = 12630 must be at most 12629"):
        sources.load("gtsrb", data_dir=str(tmp_path), test_to_train=12630)
    with pytest.raises(InputError, match="test_to_train = -1 must be at least 0"):
        sources.load("gtsrb", data_dir=str(tmp_path), test_to_train=-1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "Filename,ClassId\n",
        "Filename;ClassId\n0.ppm\n",
        "Filename;ClassId\n0.ppm;x\n",
    ],
)
def test_a_damaged_gtsrb_table_is_refused(tmp_path, content):
    folder, table = _write_gtsrb(tmp_path)
    table.write_text(content)
    with pytest.raises(InputError):
        _read_gtsrb(folder, table)


def test_missing_gtsrb_parts_are_named(tmp_path):
    folder, table = _write_gtsrb(tmp_path)
    table.unlink()
    with pytest.raises(InputError, match=r"GT-final_test\.csv.* exists"):
        sources.load("gtsrb", data_dir=str(tmp_path))
    (folder / "Training" / "00042" / "00000.ppm").unlink()
    (folder / "Training" / "00042").rmdir()
    with pytest.raises(InputError, match=r"folder '.*00042' does not exist"):
        _read_gtsrb(folder, table)


# -------------------------------------------------------------------------- TFDS


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A tiny set that TensorFlow Datasets itself prepared, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {
                "train": self._generate_examples(7),
                "test": self._generate_examples(4),
            }

        def _generate_examples(self, count):
            for number in range(count):
                # Encoded here: encoding arrays is what would need TensorFlow.
                stream = io.BytesIO()
                Image.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
                stream.seek(0)
                yield number, {"image": stream, "label": number % 3}

    folder = tmp_path_factory.mktemp("tfds")
    TinyImages(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds_splits_are_read(tfds_dir):
    read = sources.load("tfds:tiny_images", data_dir=str(tfds_dir))
    assert read.name == "tfds:tiny_images" and read.num_classes == 3
    assert read.train_images.shape == (7, 8, 8, 3) and len(read.test_labels) == 4
    numbers = read.train_images[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == list(range(7))
    np.testing.assert_array_equal(read.train_labels, numbers % 3)
    part = sources.load(
        "tfds:tiny_images", data_dir=str(tfds_dir), train_split="train[:3]"
    )
    assert len(part.train_labels) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tfds:tiny_images", {"test_split": "valid"}, "Unknown split 'valid'"),
        ("tfds:no_such_set", {}, "no_such_set not found"),
        ("tfds:mnist", {}, "not prepared in .*download=True"),
        (
            "tfds:mnist",
            {"fetch": True},
            r"data\.fetch is not an option.*: data_dir, dataset, download",
        ),
    ],
)
def test_impossible_tfds_options_are_refused(tfds_dir, name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        sources.load(name, data_dir=str(tfds_dir), **options)
    assert "\n" not in str(caught.value)


def test_tfds_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'fedjax_sim\[tfds\]'"):
        sources.load("tfds:mnist")


def test_tfds_without_random_access(tfds_dir, tmp_path):
    prepared = tmp_path / "tiny_images" / "1.0.0"
    shutil.copytree(tfds_dir / "tiny_images" / "1.0.0", prepared)
    for path in prepared.iterdir():
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="no random access without TensorFlow"):
        sources.load("tfds:tiny_images", data_dir=str(tmp_path))
