"""Files as people have them: packed, renamed, beside what systems leave there.

What a file is, its first bytes say, not its name.
"""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

from fedjax_sim.data.archives import DAMAGED, Place, inner_name, is_junk
from fedjax_sim.data.dataset import Origin

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


def inside(folder: Place) -> list[Place]:
    """What a folder holds, by name, without what is no data."""
    found: list[Place] = [one for one in folder.iterdir() if not is_junk(one.name)]
    return sorted(found, key=lambda one: one.name)


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
    except (zipfile.BadZipFile, *DAMAGED) as error:
        raise origin.error(f"cannot read '{path}' ({error})") from error


def _only_member(found: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(found)) as archive:
        names = [n for n in archive.namelist() if inner_name(n) and n[-1] != "/"]
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
