"""Writes files in the formats that loaders read, for their tests."""

import io
import struct
import tarfile
import zipfile


def write_tree(folder, tree):
    """{path: content} as files below a folder."""
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path, tree):
    """The same as a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return path


def write_tar(path, tree):
    """The same as a tar archive, packed as its suffix says."""
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def idx_bytes(values):
    """A uint8 array as an IDX file."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.tobytes()
