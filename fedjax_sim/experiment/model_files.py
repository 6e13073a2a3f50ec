"""Files of a model: its arrays by name, in one of three formats.

`params/LAYER/...` are its parameters and `batch_stats/LAYER/...` the statistics of
BatchNorm, as flax calls them, such as `params/hidden/kernel`. In a state dict of
PyTorch the names have dots for the slashes. Kernels are flax's: (inputs, outputs),
(height, width, inputs, outputs). All are float32.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_sim.core.errors import InputError
from fedjax_sim.data.files import look

Arrays = dict[str, np.ndarray]
SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")


def read_file(path: Path) -> Arrays:
    """Returns the arrays of a file by name.

    Raises:
      InputError: it is damaged or of no kind that we know, or needs what is not
        installed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"config.model.init = '{path}' looks like {look(path)}; allowed: the "
            f"folder of a run, or a file {', '.join(SUFFIXES)}"
        )
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        if path.suffix == ".safetensors":
            return _safetensors(path).load_file(path)
        return _of_torch(_torch(path).load(path, "cpu", weights_only=True), path)
    except InputError:
        raise
    # Each library fails on damaged files in ways of its own.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(
            f"config.model.init = '{path}' cannot be read, it looks like {look(path)} "
            f"({reason[:200]})"
        ) from error


def write_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a model, as its suffix says; a kill leaves no half of it.

    Raises:
      InputError: another suffix, a folder that is not there, or what is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"--out={path}: a file {', '.join(SUFFIXES)} is needed, not '{path.suffix}'"
        )
    if not path.parent.is_dir():
        raise InputError(f"--out={path}: the folder '{path.parent}' does not exist")
    temporary = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".npz":
            np.savez(temporary, **dict[str, Any](arrays))
        elif path.suffix == ".safetensors":
            _safetensors(path).save_file(dict(arrays), temporary)
        else:
            torch = _torch(path)
            tensors = {
                name.replace("/", "."): torch.from_numpy(array.copy())
                for name, array in arrays.items()
            }
            torch.save(tensors, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--out={path}: {error.strerror or error}") from error


def _of_torch(found: Any, path: Path) -> Arrays:
    tensors = dict(found) if isinstance(found, Mapping) else {}
    if not tensors or not all(hasattr(value, "numpy") for value in tensors.values()):
        names = ", ".join(list(map(str, tensors))[:3])
        raise InputError(
            f"config.model.init = '{path}' holds a {type(found).__name__}"
            f"{f' of {names}' if names else ''}, no state dict of tensors by name"
        )
    return {key.replace(".", "/"): value.numpy() for key, value in tensors.items()}


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"'{path}' needs PyTorch: pip install torch") from error
    return torch


def _safetensors(path: Path) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise InputError(
            f"'{path}' needs safetensors: pip install 'fedjax_sim[safetensors]'"
        ) from error
    return safetensors.numpy
