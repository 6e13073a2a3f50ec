"""Where a data set may lie: in the folder that a user gave, or packed in it."""

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.data.archives import DAMAGED, Archive, Packed, Place
from fedjax_sim.data.dataset import Origin
from fedjax_sim.data.files import holds, look


def open_archive(path: Path, origin: Origin) -> Packed:
    """Returns what a zip or tar archive (plain, .gz, .bz2, .xz) holds.

    Raises:
      InputError: it is damaged, or no archive.
    """
    try:
        found = Packed(Archive(path))
        note(f"data set '{origin.name}': read from {path}, which stays packed")
        return found
    except (tarfile.TarError, zipfile.BadZipFile, *DAMAGED) as error:
        raise origin.error(
            f"'{path}' cannot be read as an archive; it looks like {look(path)} "
            f"({error})"
        ) from error


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
    listing = holds(Packed(Archive(root)) if root.is_file() else root)
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
