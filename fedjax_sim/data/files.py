"""Files as people have them: in folders, still packed, beside what systems leave there.

A `Place` is a file or a folder on the disk or inside of an archive; loaders read both
alike. What a file is, its first bytes say, not its name.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Union

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.data.dataset import Origin

# A tar has no table of its files: it is read once, and kept in memory.
_LARGEST_TAR = 8 * 10**9  # bytes, unpacked
_JUNK = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints"}
_PACKED = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError)
_SIGNS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"P6", "a PPM image"),
    (b"\x89HDF", "HDF5"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself (git lfs pull)",
    ),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\0\0\x08", "IDX"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


class Packed:
    """A file or a folder inside of an archive, with the part of `Path` that we use."""

    def __init__(self, archive: "_Archive", inner: str = ""):
        self._archive, self._inner = archive, inner

    def __str__(self) -> str:
        return f"{self._archive.path}/{self._inner}".rstrip("/")

    def __truediv__(self, name: str) -> "Packed":
        parts = PurePosixPath(self._inner, name).parts
        return Packed(self._archive, "/".join(parts))

    def __lt__(self, other: "Packed") -> bool:
        return self._inner < other._inner

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self._inner).name or self._archive.path.name

    @property
    def suffix(self) -> str:
        """Of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "Packed":
        """The folder that holds it."""
        inner = str(PurePosixPath(self._inner).parent)
        return Packed(self._archive, "" if inner == "." else inner)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._inner in self._archive.files

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._inner in self._archive.folders

    def exists(self) -> bool:
        """Whether it is there."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["Packed"]:
        """What the folder holds."""
        for name in self._archive.folders.get(self._inner, ()):
            yield self / name

    def read_bytes(self) -> bytes:
        """The content; `OSError` if it is damaged, as of a file on the disk."""
        try:
            return self._archive.files[self._inner]()
        except (KeyError, zipfile.BadZipFile, *_PACKED) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


Place = Union[Path, Packed]  # noqa: UP007 - read at run time, where mypy needs a name


class _Archive:
    """The files of a zip or tar archive by path, and the folders they make."""

    def __init__(self, path: Path):
        self.path = path
        self.files: dict[str, Callable[[], bytes]] = {}
        if zipfile.is_zipfile(path):
            self._read_zip(zipfile.ZipFile(path))
        else:
            self._read_tar(path)
        self.folders: dict[str, list[str]] = {"": []}
        for name in self.files:
            self._enter(name)

    def _read_zip(self, archive: zipfile.ZipFile) -> None:
        for info in archive.infolist():
            name = _inner_name(info.filename)
            if name is not None and not info.is_dir():
                self.files[name] = partial(archive.read, info)

    def _read_tar(self, path: Path) -> None:
        size = 0
        with tarfile.open(path) as archive:
            for member in archive:
                name = _inner_name(member.name)
                content = archive.extractfile(member) if member.isfile() else None
                if name is None or content is None:
                    continue
                size += member.size
                if size > _LARGEST_TAR:
                    raise OSError(f"more than {_LARGEST_TAR // 10**9} GB: unpack it")
                self.files[name] = partial(bytes, content.read())

    def _enter(self, name: str) -> None:
        while name:
            folder, _, last = name.rpartition("/")
            known = folder in self.folders
            self.folders.setdefault(folder, []).append(last)
            if known:
                return
            name = folder


def _inner_name(name: str) -> str | None:
    """The path inside of an archive; None for what is no data, or points outside."""
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "/")]
    if not parts or ".." in parts or any(is_junk(part) for part in parts):
        return None
    return "/".join(parts)


def is_junk(name: str) -> bool:
    """Whether a file is what macOS, Windows or a notebook leaves beside data."""
    return name.startswith("._") or name in _JUNK


def inside(folder: Place) -> list[Place]:
    """What a folder holds, by name, without what is no data."""
    found: list[Place] = [one for one in folder.iterdir() if not is_junk(one.name)]
    return sorted(found, key=lambda one: one.name)


def open_archive(path: Path, origin: Origin) -> Packed:
    """Returns what a zip or tar archive (plain, .gz, .bz2, .xz) holds.

    Raises:
      InputError: it is damaged, or no archive.
    """
    try:
        found = Packed(_Archive(path))
        note(f"data set '{origin.name}': read from {path}, which stays packed")
        return found
    except (tarfile.TarError, zipfile.BadZipFile, *_PACKED) as error:
        raise origin.error(
            f"'{path}' cannot be read as an archive; it looks like {look(path)} "
            f"({error})"
        ) from error


def content(path: Place, origin: Origin) -> bytes:
    """Returns the bytes of a file, unpacked if it is gzip, bzip2, xz or a zip of one.

    Raises:
      InputError: it cannot be read.
    """
    try:
        found = path.read_bytes()
        if found.startswith(b"\x1f\x8b"):
            return gzip.decompress(found)
        if found.startswith(b"BZh"):
            return bz2.decompress(found)
        if found.startswith(b"\xfd7zXZ"):
            return lzma.decompress(found)
        if found.startswith(b"PK\x03\x04"):
            return _only_member(found)
        return found
    except (zipfile.BadZipFile, *_PACKED) as error:
        raise origin.error(f"cannot read '{path}' ({error})") from error


def _only_member(found: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(found)) as archive:
        names = [n for n in archive.namelist() if _inner_name(n) and n[-1] != "/"]
        # A zip of several files is a format of its own: .npz, PyTorch's .pt.
        return archive.read(names[0]) if len(names) == 1 else found


def look(what: Place | bytes) -> str:
    """Returns what a file seems to be, for a message: by its first bytes."""
    if not isinstance(what, bytes):
        if what.is_dir():
            return f"a folder ({holds(what)})"
        try:
            if isinstance(what, Path):
                with what.open("rb") as file:
                    what = file.read(512)
            else:
                what = what.read_bytes()[:512]
        except OSError as error:
            return f"unreadable ({error.strerror or error})"
    if not what:
        return "an empty file"
    if what[257:262] == b"ustar":
        return "a tar archive"
    begins = what.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begins[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "a web page (a download that failed?)"
    for sign, name in _SIGNS:
        if what.startswith(sign):
            return name
    try:
        text = begins[:200].decode()
    except UnicodeDecodeError as error:
        if error.end < 190:  # else the cut went through a letter
            return f"no format we know, its first bytes are {what[:4].hex(' ')}"
        text = begins[: error.start].decode()
    if (
        text.isprintable()
        or text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
    ):
        return f"text that begins with {text.splitlines()[0][:40]!r}"
    return f"no format we know, its first bytes are {what[:4].hex(' ')}"


def holds(folder: Place, limit: int = 6) -> str:
    """Returns what a folder holds, for a message."""
    try:
        names = [one.name for one in inside(folder)]
    except OSError as error:
        return f"it cannot be listed: {error.strerror}"
    if not names:
        return "it is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"it holds {', '.join(names[:limit])}{more}"


def places(
    data_dir: str | None, origin: Origin, archives: tuple[str, ...] = ()
) -> Iterator[Place]:
    """Where to look: the folder a user gave, then what lies packed in it.

    Args:
      data_dir: a folder, or an archive.
      origin: for messages.
      archives: the usual names of the packed data set.

    Raises:
      InputError: `data_dir` is not given, does not exist or is another file.
    """
    root = given_path(data_dir, origin)
    if root.is_file():
        yield open_archive(root, origin)
        return
    yield root
    for name in (*archives, "archive.zip"):  # as Kaggle calls whatever it packs
        if (root / name).is_file():
            yield open_archive(root / name, origin)


def located(
    data_dir: str | None,
    candidates: tuple[str, ...],
    origin: Origin,
    archives: tuple[str, ...] = (),
) -> Place:
    """Returns the first candidate that exists, in the folder or packed in it.

    Raises:
      InputError: there is none; see also `places`.
    """
    for place in places(data_dir, origin, archives):
        for name in candidates:
            if (place / name).exists():
                return place / name
    raise nothing_found(data_dir, candidates, origin)


def nothing_found(
    data_dir: str | None, candidates: tuple[str, ...], origin: Origin
) -> InputError:
    """The error of a folder in which nothing that we know lies."""
    root = given_path(data_dir, origin)
    listing = holds(Packed(_Archive(root)) if root.is_file() else root)
    looked_for = ", ".join(f"'{name}'" for name in candidates)
    return origin.error(f"none of {looked_for} exists in '{data_dir}'; {listing}")


def given_path(data_dir: str | None, origin: Origin) -> Path:
    """Returns `data_dir` as a path that exists.

    Raises:
      InputError: it is not given, does not exist or cannot be reached.
    """
    if data_dir is None:
        raise origin.error("no data folder given (--config.data.data_dir=DIR)")
    try:
        path = Path(data_dir).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody, no permission
        raise origin.error(f"data folder '{data_dir}': {error}") from error
    raise origin.error(f"data folder '{data_dir}' does not exist")
