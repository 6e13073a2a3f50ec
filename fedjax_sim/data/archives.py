"""Archives as if they were folders.

A `Place` is a file or a folder on the disk or inside of an archive; loaders read both
alike.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Union

# A tar has no table of its files: it is read once, and kept in memory.
_LARGEST_TAR = 8 * 10**9  # bytes, unpacked
_JUNK = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints"}
# What reading a damaged file raises, besides each format's own.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RuntimeError)


class Packed:
    """A file or a folder inside of an archive, with the part of `Path` that we use."""

    def __init__(self, archive: "Archive", inner: str = ""):
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
        except (KeyError, zipfile.BadZipFile, *DAMAGED) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


Place = Union[Path, Packed]  # noqa: UP007 - read at run time, where mypy needs a name


class Archive:
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
            name = inner_name(info.filename)
            if name is not None and not info.is_dir():
                self.files[name] = partial(archive.read, info)

    def _read_tar(self, path: Path) -> None:
        size = 0
        with tarfile.open(path) as archive:
            for member in archive:
                name = inner_name(member.name)
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


def inner_name(name: str) -> str | None:
    """The path inside of an archive; None for what is no data, or points outside."""
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "/")]
    if not parts or ".." in parts or any(is_junk(part) for part in parts):
        return None
    return "/".join(parts)


def is_junk(name: str) -> bool:
    """Whether a file is what macOS, Windows or a notebook leaves beside data."""
    return name.startswith("._") or name in _JUNK
