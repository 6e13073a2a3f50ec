"""Checkpoints of a run's state, by orbax: whole or absent, never half."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from fedjax_sim.core.errors import InputError

PyTree = Any
_CHECKSUM, _BESIDE = "checksum", "beside"  # beside the arrays of the state
_DIGEST = 32  # bytes
_OVERHEAD = 200_000  # bytes of the files around the arrays, generously


class Checkpoints:
    """The checkpoints of one run directory; the newest two are kept."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}") from None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            create=False,
            enable_async_checkpointing=False,
            # Of several processes the leader alone is here: orbax must not wait.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        with _without_logs():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Round of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def rounds(self) -> list[int]:
        """Rounds of all checkpoints."""
        return sorted(self._manager.all_steps())

    def save(
        self, round_index: int, state: PyTree, beside: np.ndarray | None = None
    ) -> None:
        """Writes the state after `round_index` and waits until it is on disk.

        Args:
          round_index: how many rounds are complete.
          state: to be restored.
          beside: u8 [32], a digest of what goes with the state but is kept elsewhere.

        Raises:
          OSError: it cannot be written; `ENOSPC` if the disk is full.
        """
        arrays = {name: np.asarray(leaf) for name, leaf in _leaves(state).items()}
        arrays[_BESIDE] = np.zeros(_DIGEST, np.uint8) if beside is None else beside
        arrays[_CHECKSUM] = _checksum(arrays)
        full = OSError(ENOSPC, os.strerror(ENOSPC), str(self.folder))
        wanted = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        if shutil.disk_usage(self.folder).free < wanted:
            raise full  # one that fails half-way leaves threads that print tracebacks
        try:
            with _without_logs():
                self._manager.save(round_index, args=ocp.args.StandardSave(arrays))
                self._manager.wait_until_finished()
        except ValueError as error:  # of the library below orbax: it has no other type
            if str(full.strerror) not in str(error):
                raise
            raise full from None

    def restore(
        self, round_index: int, like: PyTree, beside: np.ndarray | None = None
    ) -> PyTree:
        """Reads the state after `round_index`.

        Args:
          round_index: a round that was saved.
          like: a state of the same structure, shapes and dtypes.
          beside: u8 [32], what must have been saved so; None: anything.

        Raises:
          InputError: the checkpoint is damaged, of another structure, or goes with
            something else.
        """
        leaves = _leaves(like)
        target = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        target |= {key: np.zeros(_DIGEST, np.uint8) for key in (_CHECKSUM, _BESIDE)}
        try:
            with _without_logs():
                stored = self._manager.restore(
                    round_index, args=ocp.args.StandardRestore(target)
                )
        except Exception as error:  # orbax raises many types for a damaged folder
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._unreadable(round_index, reason[:200]) from error
        found = stored.pop(_CHECKSUM)
        for name, wanted in target.items():
            # Orbax gives what is stored, whatever shape it was asked for.
            if name in stored and stored[name].shape != wanted.shape:
                raise self._unreadable(
                    round_index,
                    f"{name} is {list(stored[name].shape)}, not {list(wanted.shape)}",
                )
        if not np.array_equal(found, _checksum(stored)):
            raise self._unreadable(round_index, "its checksum is another")
        if beside is not None and not np.array_equal(stored[_BESIDE], beside):
            raise InputError(
                f"{self.folder}/{round_index}: the rows in rounds.jsonl or "
                "metrics.jsonl are not those of this checkpoint; restore the files or "
                "start in a new --workdir"
            )
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        values = [
            stored.get(jax.tree_util.keystr(path), np.asarray(leaf))
            for path, leaf in paths
        ]
        return jax.tree.unflatten(structure, values)

    def arrays(self, round_index: int) -> dict[str, np.ndarray]:
        """Reads the leaves after `round_index` by path, whatever their structure.

        Raises:
          InputError: the checkpoint is damaged.
        """
        try:
            with _without_logs():
                stored = self._manager.restore(
                    round_index, args=ocp.args.StandardRestore()
                )
            found = stored.pop(_CHECKSUM)
        except Exception as error:  # as above
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._unreadable(round_index, reason[:200]) from error
        if not np.array_equal(found, _checksum(stored)):
            raise self._unreadable(round_index, "its checksum is another")
        del stored[_BESIDE]
        return stored

    def _unreadable(self, round_index: int, reason: str) -> InputError:
        return InputError(
            f"{self.folder}/{round_index}: the checkpoint cannot be read ({reason}); "
            "delete this folder to resume from the one before"
        )

    def close(self) -> None:
        """Frees the manager's threads."""
        self._manager.close()


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keeps orbax from logging a damaged file: `restore` says it, in one line.

    Where it fails, its threads may print later that their event loop is closed: that
    stays hidden from then on.
    """
    verbosity, hook = logging.get_verbosity(), sys.excepthook

    def other_errors(kind, error, trace):
        if kind is not RuntimeError or str(error) != "Event loop is closed":
            hook(kind, error, trace)

    logging.set_verbosity(logging.FATAL)
    sys.excepthook = other_errors
    try:
        yield
        sys.excepthook = hook
    finally:
        logging.set_verbosity(verbosity)


def _checksum(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """u8 [32]: a digest of names, shapes, types and bytes."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).reshape(-1).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _leaves(state: PyTree) -> dict[str, Any]:
    """The leaves by path; empty ones are left out, for orbax cannot store them."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in paths if np.size(leaf) > 0
    }
