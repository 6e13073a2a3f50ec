"""Files as people have them: packed, renamed, beside junk, or something else."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from data_files import write_tar, write_tree, write_zip

from fedjax_sim.core.errors import InputError
from fedjax_sim.data import csv_tables, files, places, sources
from fedjax_sim.data.dataset import Origin

ORIGIN = Origin("mine", "some files", "http://example.org")
TREE = {"train/cat/1.png": b"one", "train/cat/2.png": b"two", "notes.txt": b"text"}
JUNK = {
    "train/cat/._1.png": b"\0\5\x16\7",
    "__MACOSX/train/._cat": b"x",
    ".DS_Store": b"\0\0\0\1Bud1",
}


def contents(place):
    """All files below a place by path."""
    found = {}
    for one in files.inside(place):
        if one.is_dir():
            found |= {f"{one.name}/{k}": v for k, v in contents(one).items()}
        else:
            found[one.name] = one.read_bytes()
    return found


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_folder_and_its_archives_hold_the_same(tmp_path, kind, capsys):
    if kind == "folder":
        root = write_tree(tmp_path, TREE | JUNK)
    else:
        write = write_zip if kind == "zip" else write_tar
        root = write(tmp_path / f"a.{kind}", TREE | JUNK)
    (place,) = places.places(str(root), ORIGIN)
    assert contents(place) == TREE
    assert (place / "train" / "cat").is_dir() and not (place / "dog").exists()
    assert (place / "train/cat/2.png").parent.parent.name == "train"
    assert (place / "notes.txt").suffix == ".txt"
    assert str(place / "notes.txt") == f"{root}/notes.txt"
    said = capsys.readouterr().err
    assert ("stays packed" in said) == (kind != "folder")


def test_what_is_packed_in_a_folder_comes_after_the_folder(tmp_path):
    write_zip(tmp_path / "images.zip", {"in_zip": b"1", "both": b"zip"})
    write_zip(tmp_path / "archive.zip", {"in_archive": b"1"})
    write_zip(tmp_path / "other.zip", {"in_other": b"1"})
    (tmp_path / "both").write_bytes(b"folder")
    find = lambda *names: places.located(str(tmp_path), names, ORIGIN, ("images.zip",))
    assert find("both").read_bytes() == b"folder"
    assert find("nowhere", "in_zip").read_bytes() == b"1"
    assert find("in_archive").read_bytes() == b"1"
    with pytest.raises(InputError, match=r"none of 'in_other' .*holds archive.zip, bo"):
        find("in_other")


def test_names_that_point_outside_are_left_out(tmp_path):
    write_zip(tmp_path / "a.zip", {"../evil": b"1", "/etc/passwd": b"2", "ok": b"3"})
    (place,) = places.places(str(tmp_path / "a.zip"), ORIGIN)
    assert contents(place) == {"etc/passwd": b"2", "ok": b"3"}
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, None]
)
def test_content_is_unpacked_whatever_its_name(tmp_path, pack):
    path = tmp_path / "plain"
    if pack is None:
        write_zip(path, {"one": b"content", "__MACOSX/._one": b"x"})
    else:
        path.write_bytes(pack(b"content"))
    assert files.content(path, ORIGIN) == b"content"


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><title>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\x93NUMPY\x01", "a NumPy array"),
        (b"label,pixel0\n5,0\n", "text that begins with 'label,pixel0'"),
        ("Größe;".encode(), "text that begins with 'Größe;'"),
        (b"\xde\xad\xbe\xef\0\1", "first bytes are de ad be ef"),
    ],
)
def test_what_a_file_seems_to_be(tmp_path, content, seems):
    (tmp_path / "a").write_bytes(content)
    assert seems in files.look(tmp_path / "a")
    assert seems in files.look(content)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.bin"])
def test_a_damaged_archive_is_one_line(tmp_path, name):
    path = tmp_path / name
    if name == "a.bin":
        path.write_bytes(b"\x89PNG\r\n")
    else:
        write = write_zip if name == "a.zip" else write_tar
        write(path, {"x": bytes(range(256)) * 40})
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read as an archive") as caught:
        list(places.places(str(path), ORIGIN))
    assert "\n" not in str(caught.value) and "looks like" in str(caught.value)


def test_a_damaged_file_in_an_archive_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x": b"content" * 9})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"contentcon", b"kontentcon"))
    (place,) = places.places(str(path), ORIGIN)
    with pytest.raises(InputError, match=r"cannot read '.*a\.zip/x'.*CRC"):
        files.content(place / "x", ORIGIN)


@pytest.mark.parametrize("name", sorted(sources.SOURCES))
def test_data_dirs_that_cannot_be(name, tmp_path):
    if name in ("arrays", "digits", "synthetic"):  # they read no files
        return
    (tmp_path / "file").write_text("hello")
    for data_dir, part in (
        (str(tmp_path / "file"), "text that begins with 'hello'"),
        ("~nobody_of_that_name/x", "~nobody_of_that_name/x"),
        (str(tmp_path / "file" / "x"), "does not exist"),
    ):
        with pytest.raises(InputError) as caught:
            sources.load(name, data_dir=data_dir)
        assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_of_the_disk_is_one_line(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    (tmp_path / "train" / "cat").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(InputError, match=r"'image_folder': .*Permission denied.*"):
        sources.load("image_folder", data_dir=str(tmp_path))


TABLES = {
    "plain": b"Filename;Width;ClassId\na.ppm;3;7\nb.ppm;4;0\n",
    "comma": b"Width,ClassId,Filename\n3,7,a.ppm\n4,0,b.ppm\n",
    "tab": b"Width\tFilename\tClassId\n3\ta.ppm\t7\n4\tb.ppm\t0",
    "windows": b"\xef\xbb\xbfFilename;Width;ClassId\r\na.ppm;3;7\r\nb.ppm;4;0\r\n",
    "spaces": b"filename, width, CLASSID\n a.ppm, 3, 7 \n\nb.ppm, 4, 0\n\n",
    "quotes": b'"Filename","Width","ClassId"\n"a.ppm",3,"7"\n"b.ppm",4,"0"\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_all_systems(tmp_path, kind):
    (tmp_path / "t.csv").write_bytes(TABLES[kind])
    found = csv_tables.read_table(tmp_path / "t.csv", ("Filename", "ClassId"), ORIGIN)
    assert found == [["a.ppm", "7"], ["b.ppm", "0"]]


@pytest.mark.parametrize(
    "content", [b"", b"Filename\na\n", b"Filename;ClassId\na\n", b"\xff\xfe\0\1"]
)
def test_what_is_no_such_table(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match="columns Filename, ClassId; it looks like"):
        csv_tables.read_table(tmp_path / "t.csv", ("Filename", "ClassId"), ORIGIN)


@pytest.mark.parametrize(
    "content",
    [
        b"1,2,3\n4,5,255\n",
        b"\xef\xbb\xbf1,2,3\r\n4,5,255",
        b"label,a,b\n1,2,3\n4,5,255\n",
        b'"label";"a";"b"\n1;2;3\n4;5;255\n',
    ],
)
def test_tables_of_numbers(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    found = csv_tables.read_numbers(tmp_path / "t.csv", ORIGIN)
    assert found.dtype == np.uint8 and found.tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize("content", [b"1,2\n3,256\n", b"1,2\n3,x\n", b"1,2\n3\n"])
def test_what_is_no_table_of_numbers(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match="not a table of numbers from 0 to 255"):
        csv_tables.read_numbers(tmp_path / "t.csv", ORIGIN)
