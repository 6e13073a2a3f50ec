"""Sets of image files and CIFAR's other forms, each as its source packs it."""

import io
import pickle
import shutil
import struct
import zlib

import numpy as np
import pytest
from data_files import write_tar, write_tree, write_zip
from PIL import Image

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import cifar10, cifar100, cinic10, gtsrb, sources, tiny_imagenet

RNG = np.random.default_rng(2)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def png_of(width, height):
    """A file that claims to be so large."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def images(count, size=8, channels=3):
    shape = (count, size, size, channels)[: 3 + (channels > 1)]
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# -------------------------------------------------------------------------- CIFAR


@pytest.fixture
def cifar():
    """Images and labels of two training files (the last is the test file)."""
    found = images(12, 32)
    return found, found.transpose(0, 3, 1, 2).reshape(12, -1), np.arange(12) % 10


def small_cifar10(monkeypatch):
    def read(folder, *, num_train, num_test, ends=""):
        return whole(folder, num_train=10, num_test=2, ends=ends)

    whole = cifar10.read_folder
    monkeypatch.setattr(cifar10, "read_folder", read)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar10_in_both_versions(tmp_path, monkeypatch, cifar, kind, packed):
    small_cifar10(monkeypatch)
    found, rows, labels = cifar
    tree = {}
    for k, name in enumerate(cifar10._FILES):
        part = slice(2 * k, 2 * k + 2)
        own, ids = np.ascontiguousarray(rows[part]), labels[part]
        if kind == "python":
            batch = {b"data": own, b"labels": ids.tolist()}
            tree[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch, protocol=3)
        else:
            records = np.concatenate([ids.astype(np.uint8)[:, None], own], 1)
            tree[f"cifar-10-batches-bin/{name}.bin"] = records.tobytes()
    if packed:
        write_tar(tmp_path / f"cifar-10-{kind}.tar.gz", tree)
    else:
        write_tree(tmp_path, tree)
    data = sources.load("cifar10", data_dir=str(tmp_path))
    np.testing.assert_array_equal(data.train_images, found[:10])
    np.testing.assert_array_equal(data.test_images, found[10:])
    assert data.train_labels.tolist() == labels[:10].tolist()


@pytest.mark.parametrize("labels", ["fine", "coarse"])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100(tmp_path, cifar, kind, labels):
    found, rows, _ = cifar
    fine, coarse = np.arange(12) * 9, np.arange(12) + 8
    tree = {}
    for name, part in (("train", slice(10)), ("test", slice(10, 12))):
        own = np.ascontiguousarray(rows[part])
        if kind == "python":
            batch = {
                b"data": own,
                b"fine_labels": fine[part].tolist(),
                b"coarse_labels": coarse[part].tolist(),
            }
            tree[f"cifar-100-python/{name}"] = pickle.dumps(batch, protocol=3)
        else:
            both = np.stack([coarse[part], fine[part]], 1).astype(np.uint8)
            records = np.concatenate([both, own], 1)
            tree[f"cifar-100-binary/{name}.bin"] = records.tobytes()
    write_tree(tmp_path, tree)
    with pytest.raises(InputError, match="10 training images found, 50000 expected"):
        sources.load("cifar100", data_dir=str(tmp_path), labels=labels)
    data = cifar100.read_folder(
        tmp_path / f"cifar-100-{kind}",
        labels,
        num_train=10,
        num_test=2,
        ends=".bin" if kind == "binary" else "",
    )
    np.testing.assert_array_equal(data.train_images, found[:10])
    expected = fine if labels == "fine" else coarse
    assert data.train_labels.tolist() == expected[:10].tolist()
    assert data.num_classes == {"fine": 100, "coarse": 20}[labels]


def test_a_damaged_binary_file_is_named(tmp_path):
    for name in cifar10._FILES:
        (tmp_path / f"{name}.bin").write_bytes(bytes(3073))
    (tmp_path / "data_batch_2.bin").write_bytes(b"<html>Not found</html>")
    with pytest.raises(InputError, match=r"batch_2.bin' has 22 bytes, .* a web page"):
        sources.load("cifar10", data_dir=str(tmp_path))


# -------------------------------------------------------------------------- GTSRB


@pytest.fixture
def small_gtsrb(monkeypatch):
    """43 training and five test images are all of them."""
    whole = gtsrb.read_files

    def read(train, test, *, test_to_train, num_train, num_test):
        assert num_train in (26_640, 39_209) and num_test == 12_630
        return whole(train, test, test_to_train=test_to_train, num_train=43, num_test=5)

    monkeypatch.setattr(gtsrb, "read_files", read)


def full_archive():
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"
    tree = {}
    for label in range(43):
        folder = f"GTSRB/Final_Training/Images/{label:05d}"
        image = np.full((9, 9, 3), label, np.uint8)
        tree[f"{folder}/00000_00000.ppm"] = encoded(image, "PPM")
        row = f"00000_00000.ppm;9;9;1;1;8;8;{label}\r\n"
        tree[f"{folder}/GT-{label:05d}.csv"] = (head + row).encode()
    return tree


def official_test():
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    tree = {}
    for k in range(5):
        image = np.full((9, 9, 3), 100 + k, np.uint8)
        tree[f"GTSRB/Final_Test/Images/{k:05d}.ppm"] = encoded(image, "PPM")
        rows.append(f"{k:05d}.ppm;9;9;1;1;8;8;{k}")
    tree["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = b"Filename;Width\r\n"
    return tree | {"GT-final_test.csv": "\r\n".join(rows).encode()}


def kaggle():
    """Other file names than the official ones, and rows in another order."""
    columns = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path"
    train, test, tree = [columns], [columns], {}
    for label in reversed(range(43)):
        path = f"Train/{label}/{label:05d}_00000_00000.png"
        tree[path] = encoded(np.full((9, 9, 3), label, np.uint8))
        train.append(f"9,9,1,1,8,8,{label},{path}")
    for k in range(5):
        tree[f"Test/{k:05d}.png"] = encoded(np.full((9, 9, 3), 100 + k, np.uint8))
        test.append(f"9,9,1,1,8,8,{k},Test/{k:05d}.png")
    tree["Train.csv"] = "\n".join(train).encode()
    tree["Test.csv"] = "\n".join(test).encode()
    return tree


@pytest.mark.usefixtures("small_gtsrb")
@pytest.mark.parametrize("way", ["full", "full packed", "kaggle", "kaggle packed"])
def test_gtsrb_of_the_full_archive(tmp_path, way, capsys):
    if way == "full":
        write_tree(tmp_path, full_archive() | official_test())
    elif way == "full packed":
        write_zip(tmp_path / "GTSRB_Final_Training_Images.zip", full_archive())
        test = official_test()
        table = {"GT-final_test.csv": test.pop("GT-final_test.csv")}
        write_zip(tmp_path / "GTSRB_Final_Test_GT.zip", table)
        write_zip(tmp_path / "GTSRB_Final_Test_Images.zip", test)
    elif way == "kaggle":
        write_tree(tmp_path, kaggle())
    else:
        write_zip(tmp_path / "archive.zip", kaggle())
    data = sources.load("gtsrb", data_dir=str(tmp_path), test_to_train=2)
    assert data.train_images.shape == (45, 32, 32, 3)
    assert data.train_images[:, 9, 9, 0].tolist() == [*range(43), 104, 103]
    assert data.train_labels.tolist() == [*range(43), 4, 3]
    assert data.test_labels.tolist() == [0, 1, 2]
    said = capsys.readouterr().err
    assert "39209 training images; DROP's numbers are of that of 26640" in said


@pytest.mark.usefixtures("small_gtsrb")
@pytest.mark.parametrize("packed", [False, True])
def test_gtsrb_of_the_archive_that_drop_takes(tmp_path, packed, capsys):
    """It is taken where both are there."""
    tree = {
        name.replace("Final_Training/Images", "Training"): content
        for name, content in full_archive().items()
        if name.endswith(".ppm")
    }
    write_tree(tmp_path, official_test())
    if packed:
        write_zip(tmp_path / "GTSRB-Training_fixed.zip", tree)
    else:
        write_tree(tmp_path, tree | full_archive())
    data = sources.load("gtsrb", data_dir=str(tmp_path), test_to_train=0)
    assert data.train_labels.tolist() == [*range(43)] and len(data.test_labels) == 5
    assert "26640" not in capsys.readouterr().err


@pytest.mark.usefixtures("small_gtsrb")
def test_a_gtsrb_table_that_lists_other_files(tmp_path):
    tree = full_archive() | official_test()
    victim = "GTSRB/Final_Training/Images/00007/GT-00007.csv"
    write_tree(tmp_path, tree | {victim: tree[victim].replace(b"00000.ppm", b"1.ppm")})
    with pytest.raises(InputError, match=r"GT-00007.csv' lists 1 images, 1 of them"):
        sources.load("gtsrb", data_dir=str(tmp_path))


# ----------------------------------------------------------------------- CINIC-10


def test_cinic10_packed(tmp_path):
    tree = {
        f"{split}/{name}/{k}.png": encoded(np.full((32, 32, 3), k, np.uint8))
        for split in ("train", "valid", "test")
        for name in cinic10.CLASSES
        for k in range(2)
    }
    write_tar(tmp_path / "CINIC-10.tar.gz", tree | {"train/cat/._0.png": b"x"})
    with pytest.raises(InputError, match="40 training images found, 180000 expected"):
        sources.load("cinic10", data_dir=str(tmp_path))


# ---------------------------------------------------------- folders of classes


def class_tree(splits, kind="PNG", size=8):
    """Two images of each of three classes in each split, and their colours."""
    tree = {}
    for split in splits:
        for label, name in enumerate(("ant", "bee", "cat")):
            for k in range(2):
                image = np.full((size, size, 3), 50 * label + k, np.uint8)
                path = f"{split}/{name}/{k}.{kind.lower()}".lstrip("/")
                tree[path] = encoded(image, kind)
    return tree


@pytest.mark.parametrize("test", ["test", "val", "valid"])
@pytest.mark.parametrize("way", ["folder", "zip", "nested zip", "tar.gz"])
def test_image_folders(tmp_path, test, way):
    tree = class_tree(["train", test]) | {"train/ant/._0.png": b"x", ".DS_Store": b"x"}
    if way == "folder":
        root = write_tree(tmp_path, tree)
    elif way == "tar.gz":
        root = write_tar(tmp_path / "a.tar.gz", tree)
    else:
        outer = "mine/" if way == "nested zip" else ""
        tree = {outer + name: content for name, content in tree.items()}
        root = write_zip(tmp_path / "a.zip", tree)
    data = sources.load("image_folder", data_dir=str(root))
    assert data.train_images.shape == (6, 8, 8, 3) and data.num_classes == 3
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 50, 51, 100, 101]
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_image_folders_scaled_grey_and_of_unequal_size(tmp_path):
    tree = class_tree(["train"], "JPEG") | class_tree(["test"], "PPM", 12)
    root = str(write_tree(tmp_path, tree))
    with pytest.raises(InputError, match="12x12 pixels, 8x8 expected"):
        sources.load("image_folder", data_dir=root)
    with pytest.raises(InputError, match=r"1000000x1000000 pixels need 1.8e\+04 GB"):
        sources.load("image_folder", data_dir=root, size=1_000_000)
    data = sources.load("image_folder", data_dir=root, size=10, grey=True)
    assert data.train_images.shape == data.test_images.shape == (6, 10, 10, 1)


def test_image_folders_without_a_test_set(tmp_path):
    root = str(write_tree(tmp_path, class_tree([""])))
    with pytest.raises(InputError, match=r"no folder of test images .*test_share=0.2"):
        sources.load("image_folder", data_dir=root)
    data = sources.load("image_folder", data_dir=root, test_share=0.5)
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 1, 2]
    both = np.concatenate([data.train_images, data.test_images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == [0, 1, 50, 51, 100, 101]
    again = sources.load("image_folder", data_dir=root, test_share=0.5)
    np.testing.assert_array_equal(again.train_images, data.train_images)


def test_image_folders_that_do_not_fit_together(tmp_path):
    root = write_tree(tmp_path, class_tree(["train", "test"]))
    load = lambda: sources.load("image_folder", data_dir=str(root))
    (root / "test" / "cat").rename(root / "test" / "cow")
    with pytest.raises(InputError, match=r"has the classes cow, which .* no training"):
        load()
    shutil.rmtree(root / "test" / "cow")  # a class may lack test images
    assert load().test_labels.tolist() == [0, 0, 1, 1]
    (root / "test" / "ant" / "0.png").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"ant/0.png' \(it looks like a web page"):
        load()
    (root / "test" / "ant" / "0.png").write_bytes(png_of(30_000, 30_000))
    with pytest.raises(InputError, match=r"0.png' .* a PNG image, .* exceeds limit"):
        load()
    shutil.rmtree(root / "train")
    (root / "train" / "ant").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no images in its folders \(ant\)"):
        load()


# ---------------------------------------------------------------- Tiny ImageNet


def tiny_tree(sorted_classes=False):
    tree = {}
    rows = []
    for label, name in enumerate(("n01", "n02")):
        for k in range(3):
            # Grey ones are there, too.
            image = np.full((64, 64, 3)[: 3 - (k == 2)], 90 * label + k, np.uint8)
            tree[f"train/{name}/images/{name}_{k}.JPEG"] = encoded(image, "JPEG")
        image = np.full((64, 64, 3), 90 * label, np.uint8)
        folder = f"val/{name}" if sorted_classes else "val/images"
        tree[f"{folder}/val_{1 - label}.JPEG"] = encoded(image, "JPEG")
        rows.insert(0, f"val_{1 - label}.JPEG\t{name}\t0\t0\t62\t62\n")
        tree[f"train/{name}/{name}_boxes.txt"] = b"x\t0\t0\t1\t1\n"
    tree["test/images/test_0.JPEG"] = encoded(image, "JPEG")
    if not sorted_classes:
        tree["val/val_annotations.txt"] = "".join(rows).encode()
    return {f"tiny-imagenet-200/{name}": content for name, content in tree.items()}


@pytest.fixture
def small_tiny(monkeypatch):
    whole = tiny_imagenet.read_folder
    monkeypatch.setattr(
        tiny_imagenet,
        "read_folder",
        lambda folder, **_: whole(folder, num_classes=2, num_train=6, num_test=2),
    )


@pytest.mark.usefixtures("small_tiny")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sorted_classes", [False, True])
def test_tiny_imagenet(tmp_path, sorted_classes, packed):
    tree = tiny_tree(sorted_classes)
    if packed:
        write_zip(tmp_path / "tiny-imagenet-200.zip", tree)
    else:
        write_tree(tmp_path, tree)
    data = sources.load("tiny_imagenet", data_dir=str(tmp_path))
    assert data.train_images.shape == (6, 64, 64, 3)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(
        data.train_images[:, 9, 9, 0].astype(int), [0, 1, 2, 90, 91, 92], atol=2
    )
    order = [0, 1] if sorted_classes else [1, 0]
    assert data.test_labels.tolist() == order
    colours = data.test_images[:, 9, 9, 0].astype(int)
    np.testing.assert_allclose(colours, [90 * k for k in order], atol=2)


def test_tiny_imagenet_in_part(tmp_path):
    write_tree(tmp_path, tiny_tree())
    with pytest.raises(InputError, match="holds 2 classes, 200 expected"):
        sources.load("tiny_imagenet", data_dir=str(tmp_path))
    table = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn99\n")
    with pytest.raises(InputError, match="not a table of images and their classes"):
        tiny_imagenet.read_folder(
            table.parent.parent, num_classes=2, num_train=6, num_test=2
        )
