"""NumPy archives, Hugging Face folders, LEAF and TFF files, made by their libraries."""

import io
import json

import numpy as np
import pytest
from data_files import write_tar, write_tree, write_zip
from PIL import Image

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import sources

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (12, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
WRITERS = np.array([5, 5, 5, 9, 9, 9, 2, 2, 2, 2])
SPLITS = (slice(0, 10), slice(10, 12))


def check(data, images=IMAGES):
    np.testing.assert_array_equal(data.train_images, images[:10])
    np.testing.assert_array_equal(data.test_images, images[10:])
    assert data.train_labels.tolist() == LABELS[:10].tolist()
    assert data.test_labels.tolist() == LABELS[10:].tolist()


# --------------------------------------------------------------------------- .npz


KEYS = {
    "keras": ("x_train", "y_train", "x_test", "y_test"),
    "medmnist": ("train_images", "train_labels", "test_images", "test_labels"),
}


def arrays(kind="keras", images=IMAGES, labels=LABELS):
    parts = (images[:10], labels[:10], images[10:], labels[10:])
    return dict(zip(KEYS[kind], parts, strict=True))


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_two_splits(tmp_path, kind, save):
    labels = LABELS[:, None] if kind == "medmnist" else LABELS
    more = {"val_images": IMAGES[:1]} if kind == "medmnist" else {}
    save(tmp_path / "mine.npz", **arrays(kind, labels=labels), **more)
    (tmp_path / "._mine.npz").write_bytes(b"\0\5\x16\7")
    for data_dir in (tmp_path, tmp_path / "mine.npz"):
        data = sources.load("npz", data_dir=str(data_dir))
        check(data)
        assert data.num_classes == 3 and data.train_groups is None
    assert sources.load("npz", data_dir=str(tmp_path), num_classes=9).num_classes == 9


def test_npz_of_grey_images_and_writers(tmp_path):
    grey = IMAGES[..., 0]
    np.savez(tmp_path / "a.npz", **arrays(images=grey), train_groups=WRITERS)
    data = sources.load("npz", data_dir=str(tmp_path))
    check(data, grey[..., None])
    assert data.train_groups.tolist() == WRITERS.tolist()


def test_npz_of_one_split(tmp_path):
    groups = np.arange(12)
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS, train_groups=groups)
    with pytest.raises(InputError, match=r"one split \(images, labels\).*test_share"):
        sources.load("npz", data_dir=str(tmp_path))
    data = sources.load("npz", data_dir=str(tmp_path), test_share=0.25)
    assert sorted(data.test_labels) == [0, 1, 2] and len(data.train_labels) == 9
    np.testing.assert_array_equal(data.train_images, IMAGES[data.train_groups])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": IMAGES[:10] / 255.0}, r"x_train is float64.*astype\('uint8'\)"),
        ({"x_train": IMAGES[:10].transpose(0, 3, 1, 2)}, "channels first: save"),
        ({"x_train": IMAGES[:9]}, "9 training images but 10 training labels"),
        ({"y_train": np.eye(10)}, "y_train is float64.* one whole number for each"),
        ({"y_test": np.array([0, -1])}, "test labels lie in -1"),
        ({"y_test": np.array([0, 10**12])}, "labels up to 1000000000000, at most"),
        ({"x_test": IMAGES[10:, :5]}, "test images are uint8"),
        ({"x_test": np.array([{}, {}])}, "cannot read .*Object arrays"),
        ({"train_groups": WRITERS[:4]}, "10 training labels but 4 writers"),
    ],
)
def test_npz_that_is_wrong(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **arrays() | changes)
    with pytest.raises(InputError, match=message) as caught:
        sources.load("npz", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_npz_that_is_none(tmp_path):
    load = lambda: sources.load("npz", data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"no single file .npz.*it is empty"):
        load()
    np.savez(tmp_path / "a.npz", data=IMAGES)
    with pytest.raises(InputError, match="holds the arrays data; expected a file"):
        load()
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"several of them, a.npz, b.npz; name one"):
        load()
    np.save(tmp_path / "c.npy", IMAGES)
    with pytest.raises(InputError, match="looks like a NumPy array"):
        sources.load("npz", data_dir=str(tmp_path / "c.npy"))


# -------------------------------------------------------------- Hugging Face folders


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def rows(part, images=IMAGES, label="label"):
    return {
        "image": [{"bytes": encoded(image), "path": None} for image in images[part]],
        label: LABELS[part].tolist(),
    }


def write_parquet(path, columns, classes=None):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if classes is not None:
        features = {"label": {"names": classes, "_type": "ClassLabel"}}
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, path)


@pytest.mark.parametrize("folder", [".", "data", "mnist"])
def test_parquet_as_the_hub_has_it(tmp_path, folder):
    for k, part in enumerate((slice(0, 6), slice(6, 10))):
        name = f"train-0000{k}-of-00002.parquet"
        write_parquet(tmp_path / folder / name, rows(part), list("abcd"))
    write_parquet(tmp_path / folder / "test-00000-of-00001.parquet", rows(SPLITS[1]))
    data = sources.load("parquet", data_dir=str(tmp_path))
    check(data)
    assert data.num_classes == 4 and data.train_groups is None


def test_parquet_of_writers_without_a_test_split(tmp_path):
    grey = IMAGES[..., 0]
    columns = rows(slice(12), grey, "character")
    columns["writer_id"] = [f"f{k % 4}" for k in range(12)]
    write_parquet(tmp_path / "train.parquet", columns)
    load = lambda **more: sources.load("parquet", data_dir=str(tmp_path), **more)
    with pytest.raises(InputError, match=r"no files of the split 'test' .*test_share"):
        load()
    data = load(test_share=0.25, group_column="writer_id")
    assert data.train_images.shape == (9, 8, 6, 1) and data.test_labels.size == 3
    for image, writer in zip(data.train_images, data.train_groups, strict=True):
        (k,) = np.flatnonzero((grey[..., None] == image).all((1, 2, 3)))
        assert k % 4 == writer
    with pytest.raises(InputError, match=r"group_column = 'writer' .* 'writer_id'"):
        load(test_share=0.25, group_column="writer")
    assert load(test_share=0.5, size=5, grey=False).train_images.shape[1:] == (5, 5, 3)


def test_parquet_that_is_wrong(tmp_path):
    path = tmp_path / "train.parquet"
    load = lambda: sources.load("parquet", data_dir=str(tmp_path), test_share=0.5)
    write_parquet(path, {"text": ["a"], "label": [0]})
    with pytest.raises(InputError, match="has the columns text, label; say which wit"):
        load()
    write_parquet(path, {"image": ["a"], "label": [0]})
    with pytest.raises(InputError, match="columns image of encoded images and label"):
        load()
    write_parquet(path, {"image": [{"bytes": None, "path": "a.png"}], "label": [0]})
    with pytest.raises(InputError, match="names its images by path: embed them"):
        load()
    write_parquet(path, {"image": [{"bytes": b"<html>"}] * 2, "label": [0, 0]})
    with pytest.raises(InputError, match=r"image \d of the split 'train' .* web page"):
        load()
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"cannot read '.*; it looks like a web page"):
        load()


def test_what_the_library_itself_saves(tmp_path):
    """`datasets` writes folders of Arrow streams, one for each split, and parquet."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))}
    )

    def split(part):
        columns = {"img": [Image.fromarray(image) for image in IMAGES[part]]}
        columns["label"] = LABELS[part].tolist()
        return datasets.Dataset.from_dict(columns, features)

    both = {"train": split(SPLITS[0]), "test": split(SPLITS[1])}
    datasets.DatasetDict(both).save_to_disk(
        tmp_path / "two", num_shards={"train": 3, "test": 1}
    )
    data = sources.load("parquet", data_dir=str(tmp_path / "two"))
    check(data)
    assert data.num_classes == 3
    split(slice(12)).save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match=r"is one split; config.data.test_share=0.2"):
        sources.load("parquet", data_dir=str(tmp_path / "one"))
    data = sources.load("parquet", data_dir=str(tmp_path / "one"), test_share=0.25)
    assert len(data.train_labels) == 9
    (shard,) = (tmp_path / "one").glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:-900])  # mapped, this would end the process
    with pytest.raises(InputError, match="arrow'; it looks like an Arrow stream"):
        sources.load("parquet", data_dir=str(tmp_path / "one"), test_share=0.25)
    (tmp_path / "hub").mkdir()
    for name, own in both.items():
        own.to_parquet(tmp_path / "hub" / f"{name}-00000-of-00001.parquet")
    data = sources.load("parquet", data_dir=str(tmp_path / "hub"))
    check(data)
    assert data.num_classes == 3


# --------------------------------------------------------------------------- LEAF


def leaf_tree(folder=""):
    """Writers f0 and f1 in one file, f2 in another; both have test samples."""

    def file(users):
        own = {}
        for user, (pixels, labels) in users.items():
            x = (pixels.reshape(len(pixels), 784) / 255).tolist()
            own[user] = {"x": x, "y": labels}
        counts = [len(labels) for _, labels in users.values()]
        table = {"users": list(users), "num_samples": counts, "user_data": own}
        return json.dumps(table).encode()

    pixels = np.arange(7, dtype=np.uint8)[:, None] * np.full((1, 784), 30, np.uint8)
    return {
        f"{folder}train/all_data_0_niid_0_keep_0_train_9.json": file(
            {"f1_05": (pixels[:2], [61, 3]), "f0_11": (pixels[2:3], [0])}
        ),
        f"{folder}train/all_data_1_niid_0_keep_0_train_9.json": file(
            {"f2_19": (pixels[3:5], [7, 7])}
        ),
        f"{folder}test/all_data_0_niid_0_keep_0_test_9.json": file(
            {"f1_05": (pixels[5:6], [9]), "f2_19": (pixels[6:7], [8])}
        ),
    }


@pytest.mark.parametrize("way", ["data/", "femnist/data/", "", "zip"])
def test_leaf(tmp_path, way):
    if way == "zip":
        root = write_zip(tmp_path / "femnist.zip", leaf_tree("data/"))
    else:
        root = write_tree(tmp_path, leaf_tree(way))
    data = sources.load("leaf", data_dir=str(root))
    assert data.train_images.shape == (5, 28, 28, 1) and data.num_classes == 62
    assert data.train_images[:, 9, 9, 0].tolist() == [0, 30, 60, 90, 120]
    assert data.train_labels.tolist() == [61, 3, 0, 7, 7]
    assert data.train_groups.tolist() == [1, 1, 0, 2, 2]
    assert data.test_labels.tolist() == [9, 8]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "looks like JSON"),
        (b"", "looks like an empty file"),
        (b'{"users": ["a"], "user_data": {}}', "KeyError"),
        (
            b'{"users": ["a"], "user_data": {"a": {"x": ["the"], "y": ["a"]}}}',
            "not a file of LEAF's femnist",
        ),
        (
            json.dumps(
                {"users": ["a"], "user_data": {"a": {"x": [[9] * 784], "y": [0]}}}
            ).encode(),
            r"pixels of user a outside 0\.\.1",
        ),
        (b'{"users": [], "user_data": {}}', "have no users"),
    ],
)
def test_leaf_that_is_wrong(tmp_path, content, message):
    write_tree(tmp_path, {"train/a.json": content, "test/a.json": content})
    with pytest.raises(InputError, match=message) as caught:
        sources.load("leaf", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    (tmp_path / "train" / "a.json").unlink()
    with pytest.raises(InputError, match=r"holds no .json file"):
        sources.load("leaf", data_dir=str(tmp_path))


# ---------------------------------------------------------------------- TFF's HDF5


def hdf5(clients):
    h5py = pytest.importorskip("h5py")
    file = io.BytesIO()
    with h5py.File(file, "w") as archive:
        for name, columns in clients.items():
            for key, values in columns.items():
                archive[f"examples/{name}/{key}"] = values
    return file.getvalue()


def client(start, count, key="pixels"):
    values = np.arange(start, start + count, dtype=np.float32)
    pixels = np.broadcast_to(values[:, None, None] / 255, (count, 28, 28))
    return {key: pixels, "label": np.arange(start, start + count, dtype=np.int32)}


@pytest.mark.parametrize(
    ("stem", "classes"), [("fed_emnist", 62), ("fed_emnist_digitsonly", 10)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_tff_emnist(tmp_path, stem, classes, packed):
    tree = {
        f"{stem}_train.h5": hdf5({"f01_2": client(0, 2), "f00_9": client(2, 3)}),
        f"{stem}_test.h5": hdf5({"f00_9": client(5, 1)}),
    }
    if packed:
        write_tar(tmp_path / f"{stem}.tar.bz2", tree)
    else:
        write_tree(tmp_path, tree)
    data = sources.load("tff_hdf5", data_dir=str(tmp_path))
    assert data.train_images.shape == (5, 28, 28, 1) and data.num_classes == classes
    # Clients in the order of their names.
    assert data.train_images[:, 0, 0, 0].tolist() == [2, 3, 4, 0, 1]
    assert data.train_labels.tolist() == [2, 3, 4, 0, 1]
    assert data.train_groups.tolist() == [0, 0, 0, 1, 1]
    assert data.test_labels.tolist() == [5]


def test_tff_cifar100(tmp_path):
    pixels = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    own = {"image": pixels, "label": np.array([[99], [5], [7]], np.int64)}
    own["coarse_label"] = np.zeros((3, 1), np.int64)
    for name in ("train", "test"):
        (tmp_path / f"fed_cifar100_{name}.h5").write_bytes(hdf5({"0": own}))
    data = sources.load("tff_hdf5", data_dir=str(tmp_path))
    np.testing.assert_array_equal(data.train_images, pixels)
    assert data.train_labels.tolist() == [99, 5, 7] and data.num_classes == 100


def test_tff_files_that_are_wrong(tmp_path):
    path = tmp_path / "fed_emnist_train.h5"
    load = lambda: sources.load("tff_hdf5", data_dir=str(tmp_path))
    for content, message in (
        (b"<html>", "looks like a web page"),
        (hdf5({"a": {"tokens": np.arange(3)}}), "looks like HDF5"),
        (hdf5({"a": client(900, 2)}), "pixels outside 0..1"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load()
    path.write_bytes(hdf5({"a": client(0, 2)}))
    with pytest.raises(InputError, match=r"cannot read '.*fed_emnist_test.h5'"):
        load()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("parquet", "pyarrow", "parquet"), ("tff_hdf5", "h5py", "hdf5")],
)
def test_an_extra_that_is_not_installed(tmp_path, monkeypatch, name, module, extra):
    (tmp_path / "train.parquet").write_bytes(b"x")
    (tmp_path / "fed_emnist_train.h5").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'fedjax_sim\[{extra}\]'"):
        sources.load(name, data_dir=str(tmp_path))
