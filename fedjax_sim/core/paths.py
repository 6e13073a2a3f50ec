"""Folders and files that a user names: of this machine, or refused."""

import re
from pathlib import Path

from fedjax_sim.core.errors import InputError


def local_path(key: str, value: str | Path) -> Path:
    """Returns the path that a user gave, `~` replaced.

    Args:
      key: what the user set, such as `--workdir`.
      value: as it was given.

    Raises:
      InputError: it names another place than this machine's disk, a user who does not
        exist, or is longer than the disk allows.
    """
    # A Path has lost one of the slashes of `gs://`.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
        raise InputError(
            f"{key}={value}: allowed are folders of this machine, mounted ones too; "
            "copy the results there afterwards"
        )
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        user = str(value).partition("/")[0]
        raise InputError(f"{key}={value}: there is no user {user}") from None
    try:
        path.exists()
    except OSError as error:
        shown = f"{str(value)[:60]}... ({len(str(value))} characters)"
        raise InputError(f"{key}={shown}: {error.strerror}") from None
    return path
