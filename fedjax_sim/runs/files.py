"""The files of a run directory: read whole or refused, written whole or not at all."""

import fcntl
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_sim.core.errors import InputError
from fedjax_sim.core.json_files import RESTORE
from fedjax_sim.core.json_files import read_json as read_json

SUMMARY = ("name", "final", "late", "detection", "seconds")  # what readers need
PACKAGES = ("fedjax_sim", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


class Busy(InputError):
    """Another process works in the run directory."""


class Lock:
    """Holds a run directory; the kernel lets go when the process dies.

    Raises:
      Busy: another process works there.
      InputError: the lock cannot be written.
    """

    def __init__(self, workdir: Path):
        try:
            self._file = open(workdir / "lock", "w")  # noqa: SIM115 - held for the run
        except OSError as error:
            reason = error.strerror
            raise InputError(f"--workdir={workdir}: lock: {reason}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Busy(
                f"--workdir={workdir}: another run is working there; wait for it or "
                "choose another folder"
            ) from None

    def release(self) -> None:
        """Lets another process work in the directory."""
        self._file.close()


def plain(value: Any) -> Any:
    """Converts arrays and non-finite numbers to what JSON can hold (null)."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a file so that a kill leaves the old one or the new one, never half."""
    temporary = path.with_suffix(path.suffix + ".partial")
    with open(temporary, "w") as file:
        json.dump(plain(value), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Rows:
    """A file of one JSON object per line, in rising `round`."""

    def __init__(self, path: Path):
        self.path = path
        self._seen = hashlib.blake2b()

    def digest(self) -> bytes:
        """A digest of the rows that were kept and appended."""
        return self._seen.digest()

    def read(self) -> list[dict[str, Any]]:
        """Returns the rows; a last line cut short by a kill is left out.

        Raises:
          InputError: another line is damaged.
        """
        if not self.path.exists():
            return []
        try:
            lines = self.path.read_text().splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: unreadable ({error}); {RESTORE}") from None
        rows = []
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                break
            try:
                rows.append(json.loads(line))
                rows[-1]["round"] + 0
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{self.path}: line {number} is not a row in JSON ({error}); "
                    f"{RESTORE}"
                ) from None
        return rows

    def keep_until(
        self, last_round: int, expected: Iterable[int]
    ) -> list[dict[str, Any]]:
        """Drops rows after `last_round`: a resumed run writes them again.

        Args:
          last_round: of the checkpoint that the run goes on from.
          expected: rounds that have rows by then.

        Raises:
          InputError: one of them has none, so the file is older than the checkpoint.
        """
        rows = [row for row in self.read() if row["round"] <= last_round]
        missing = sorted({*expected} - {row["round"] for row in rows})
        if missing:
            raise InputError(
                f"{self.path}: round {missing[0]} is missing, and the newest "
                f"checkpoint is of round {last_round}; {RESTORE}"
            )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self._seen = hashlib.blake2b(text.encode())
        temporary = self.path.with_suffix(".partial")
        temporary.write_text(text)
        os.replace(temporary, self.path)
        return rows

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows; they are on the disk before a checkpoint of their rounds is."""
        text = "".join(json.dumps(plain(row)) + "\n" for row in rows)
        self._seen.update(text.encode())
        with open(self.path, "a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def environment() -> dict[str, Any]:
    """What a run's numbers may depend on besides its config."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "git": _git_revision(),
    }


def _git_revision() -> str:
    """Revision of the checkout the package runs from, "+" if it has changes."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
