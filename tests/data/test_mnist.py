"""MNIST and its family under the names that people have."""

import gzip
import hashlib
import io

import numpy as np
import pytest
from data_files import idx_bytes, write_zip
from scipy.io import savemat

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import emnist, mnist, sources
from fedjax_sim.data.idx import Official, complete

SMALL = Official(10, 20, 10)
RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
LABELS = (np.arange(30) % 10).astype(np.uint8)


def parts(first_label=0):
    """(prefix-independent name, values) of the four files."""
    labels = LABELS + np.uint8(first_label)
    return {
        "train-images-idx3": IMAGES[:20],
        "train-labels-idx1": labels[:20],
        "t10k-images-idx3": IMAGES[20:],
        "t10k-labels-idx1": labels[20:],
    }


def table(part, named):
    labels, images = LABELS[part], IMAGES[part].reshape(-1, 784)
    rows = np.concatenate([labels[:, None], images], 1)
    file = io.StringIO()
    names = ",".join(["label", *(f"pixel{k}" for k in range(784))])
    np.savetxt(file, rows, "%d", ",", header=names if named else "", comments="")
    return file.getvalue().encode()


@pytest.fixture
def small(monkeypatch):
    """The official sizes are those of the files here, and so is MNIST's digest."""
    digest = mnist.digest(IMAGES[:20, ..., None])
    own = mnist._MNIST._replace(official=SMALL, digest=digest)
    monkeypatch.setattr(mnist, "_MNIST", own)
    own = mnist._FASHION_MNIST._replace(official=SMALL)
    monkeypatch.setattr(mnist, "_FASHION_MNIST", own)


def check(data, images=IMAGES):
    np.testing.assert_array_equal(data.train_images[..., 0], images[:20])
    np.testing.assert_array_equal(data.test_images[..., 0], images[20:])
    assert data.train_labels.tolist() == LABELS[:20].tolist()
    assert data.test_labels.tolist() == LABELS[20:].tolist()
    assert data.train_images.dtype == np.uint8


def zipped(content):
    file = io.BytesIO()
    write_zip(file, {"whatever": content})
    return file.getvalue()


WAYS = {
    "official": lambda name: (f"{name}-ubyte", bytes),
    "official gz": lambda name: (f"{name}-ubyte.gz", gzip.compress),
    "torchvision": lambda name: (f"MNIST/raw/{name}-ubyte", bytes),
    "dotted": lambda name: (f"{name.replace('-idx', '.idx')}-ubyte", bytes),
    "dotted gz": lambda name: (
        f"{name.replace('-idx', '.idx')}-ubyte.gz",
        gzip.compress,
    ),
    "Kaggle": lambda name: (f"{name}-ubyte/{name}-ubyte", bytes),
    "Kaggle dotted": lambda name: (
        f"{name.replace('-idx', '.idx')}-ubyte/{name.replace('-idx', '.idx')}-ubyte",
        bytes,
    ),
    "zip": lambda name: (f"{name}-ubyte.zip", zipped),
    "gzip without suffix": lambda name: (f"mnist/{name}-ubyte", gzip.compress),
    "plain with suffix": lambda name: (f"{name}-ubyte.gz", bytes),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("way", WAYS)
def test_idx_under_the_names_people_have(tmp_path, way, capsys):
    for name, values in parts().items():
        where, pack = WAYS[way](name)
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(idx_bytes(values)))
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    check(sources.load("mnist", data_dir=str(tmp_path)))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        *(("mnist", folder) for folder in mnist._MNIST.folders),
        *(("fashion_mnist", folder) for folder in mnist._FASHION_MNIST.folders),
    ],
)
def test_folders_of_the_family(tmp_path, name, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_idx(tmp_path / folder)
    check(sources.load(name, data_dir=str(tmp_path)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("named", [True, False])
def test_tables_of_pixels(tmp_path, named):
    (tmp_path / "mnist_train.csv").write_bytes(table(slice(20), named))
    (tmp_path / "mnist_test.csv").write_bytes(b"\xef\xbb\xbf" + table(slice(20, 30), 1))
    check(sources.load("mnist", data_dir=str(tmp_path)))
    (tmp_path / "mnist_test.csv").write_bytes(b"pixel0,pixel1\n0,0\n")
    with pytest.raises(InputError, match="2 columns, 785 expected: a label and"):
        sources.load("mnist", data_dir=str(tmp_path))
    (tmp_path / "mnist_test.csv").unlink()
    with pytest.raises(InputError, match=r"mnist_test.csv' does not exist beside"):
        sources.load("mnist", data_dir=str(tmp_path))


def write_idx(folder, pack=bytes, prefixes=("train", "t10k"), first_label=0):
    for name, values in parts(first_label).items():
        name = name.replace("train", prefixes[0]).replace("t10k", prefixes[1])
        (folder / f"{name}-ubyte").write_bytes(pack(idx_bytes(values)))


@pytest.mark.usefixtures("small")
def test_a_file_that_lacks_its_labels_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"'t10k-labels-idx1-ubyte' does not .*holds"):
        sources.load("mnist", data_dir=str(tmp_path))


@pytest.mark.usefixtures("small")
def test_another_set_with_the_names_of_fashion_mnist(tmp_path, monkeypatch, capsys):
    """Said if the images are unknown; refused if the file is known to be KMNIST's."""
    packed = gzip.compress(idx_bytes(IMAGES[:20]), mtime=0)
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(packed)
    check(sources.load("fashion_mnist", data_dir=str(tmp_path)))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not the official ones" in said
    assert mnist.digest(IMAGES[:20, ..., None]) in said
    assert "f4a8712d7a061bf5bd6d2ca38dc4d50a" in said
    monkeypatch.setattr(mnist, "_KMNIST", hashlib.md5(packed).hexdigest())
    with pytest.raises(InputError, match="is that of KMNIST, another data set"):
        sources.load("fashion_mnist", data_dir=str(tmp_path))


def test_a_digest_is_that_of_the_unpacked_file():
    content = idx_bytes(IMAGES)
    assert mnist.digest(IMAGES[..., None]) == hashlib.md5(content).hexdigest()


# ------------------------------------------------------------------------- EMNIST


@pytest.fixture
def small_emnist(monkeypatch):
    small = {
        name: SMALL._replace(first_label=own.first_label)
        for name, own in emnist._OFFICIAL.items()
    }
    monkeypatch.setattr(emnist, "_OFFICIAL", small)


def write_mat(path, first_label=0, **changes):
    labels = LABELS[:, None] + np.uint8(first_label)
    split = lambda part: {
        "images": IMAGES[part].reshape(-1, 784),
        "labels": labels[part],
        "writers": np.arange(30)[part, None] // 4,
        **changes,
    }
    train, test = split(slice(20)), split(slice(20, 30))
    table = {"dataset": {"train": train, "test": test, "mapping": np.eye(2)}}
    savemat(path, table, do_compression=True)  # as the official files


@pytest.mark.usefixtures("small_emnist")
@pytest.mark.parametrize("split", ["balanced", "byclass", "letters", "digits", "mnist"])
@pytest.mark.parametrize("way", ["idx", "gzip.zip", "mat", "matlab.zip", "csv"])
def test_emnist_splits(tmp_path, split, way):
    first = int(split == "letters")
    prefixes = (f"emnist-{split}-train", f"emnist-{split}-test")
    if way == "idx":
        write_idx(tmp_path, gzip.compress, prefixes, first)
    elif way == "gzip.zip":
        files = {
            f"gzip/{name.replace('train', prefixes[0]).replace('t10k', prefixes[1])}"
            "-ubyte.gz": gzip.compress(idx_bytes(values))
            for name, values in parts(first).items()
        }
        write_zip(tmp_path / "gzip.zip", files)
    elif way == "csv":
        if first:  # whose labels `table` does not shift
            return
        for prefix, part in zip(prefixes, (slice(20), slice(20, 30)), strict=True):
            (tmp_path / f"{prefix}.csv").write_bytes(table(part, False))
    else:
        path = tmp_path / f"emnist-{split}.mat"
        write_mat(path, first)
        if way == "matlab.zip":
            content = path.read_bytes()
            path.unlink()
            name = f"matlab/emnist-{split}.mat"
            write_zip(tmp_path / "matlab.zip", {name: content})
    data = sources.load("emnist", data_dir=str(tmp_path), split=split)
    check(data)
    if "mat" in way:
        assert data.train_groups.tolist() == (np.arange(20) // 4).tolist()
    else:
        assert data.train_groups is None


@pytest.mark.usefixtures("small_emnist")
@pytest.mark.parametrize("folder", emnist._FOLDERS)
def test_folders_of_emnist(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_idx(tmp_path / folder, bytes, ("emnist-digits-train", "emnist-digits-test"))
    check(sources.load("emnist", data_dir=str(tmp_path), split="digits"))


def test_emnist_has_its_official_sizes():
    sizes = {name: tuple(own)[:3] for name, own in emnist._OFFICIAL.items()}
    assert sizes["letters"] == (26, 124_800, 20_800)
    assert emnist._OFFICIAL["letters"].other == (88_800, 14_800)
    assert sizes["digits"] == (10, 240_000, 40_000)
    assert sizes["byclass"][1:] == sizes["bymerge"][1:] == (697_932, 116_323)


def test_another_release_goes_as_well():
    arrays = [IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:]]
    official = Official(10, 200, 100)
    with pytest.raises(InputError, match="20 training images found, 200 expected"):
        complete(list(arrays), emnist.EMNIST, official)
    check(complete(list(arrays), emnist.EMNIST, official._replace(other=(20, 10))))


@pytest.mark.usefixtures("small_emnist")
def test_a_mat_file_that_is_none(tmp_path):
    path = tmp_path / "emnist-mnist.mat"
    load = lambda: sources.load("emnist", data_dir=str(tmp_path), split="mnist")
    for content in (b"", b"<html>", b"MATLAB 5.0 MAT-file" + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a MATLAB file of EMNIST, it looks"):
            load()
    write_mat(path)
    whole = path.read_bytes()
    for content in (whole[:-300], whole[:400] + b"\0\0" + whole[402:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"looks like a MATLAB file \("):
            load()
    savemat(path, {"dataset": {"train": 1}})
    with pytest.raises(InputError, match="not a MATLAB file of EMNIST"):
        load()
    write_mat(path, writers=np.arange(3))
    with pytest.raises(InputError, match="20 training labels but 3 writers"):
        load()
    path.unlink()
    with pytest.raises(InputError, match=r"emnist-mnist.mat'.* exists in .*is empty"):
        load()
