"""Trained models: what a run starts from, and what is left of one.

A model is its arrays by name, see `experiment.model_files`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
from jax import Array

from fedjax_sim import models
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.checkpoint import Checkpoints
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.json_files import read_json
from fedjax_sim.core.progress import note
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.layout import lowering_of
from fedjax_sim.experiment.model_files import Arrays, read_file
from fedjax_sim.models.activations import in_bfloat16

_PARAMS, _BUFFERS = "params", "batch_stats"


class Start(NamedTuple):
    """What a run begins with instead of a random model."""

    model: GlobalModel  # f32 [d], f32 [b], on the host
    fingerprint: str  # 16 hex digits of names and values


def network_of(
    config: Config,
    image_shape: tuple[int, int, int],
    classes: int,
    backend: str | None = None,
) -> Network:
    """Builds what the clients of a config train on such images.

    Args:
      config: a resolved config.
      image_shape: (H, W, C).
      classes: of the data.
      backend: cpu, gpu or tpu, which it is compiled for; None: JAX's.

    Raises:
      InputError: the network does not take them.
    """
    backend = backend or jax.default_backend()
    lowering = lowering_of(config, backend)
    model = models.build(
        config.model.name,
        num_classes=classes,
        image_shape=image_shape,
        lowering=lowering,
        **config.model.options,
    )
    if config.execution.activations == "bfloat16":
        model = in_bfloat16(model)
    return Network.of(
        model,
        image_shape,
        classes,
        lowering,
        backend,
        config.execution.matmul_precision,
    )


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a network by its name, in flat order."""
    return {
        f"{kind}/{name}": shape
        for kind, layout in (
            (_PARAMS, network.layout),
            (_BUFFERS, network.buffer_layout),
        )
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    }


def split(network: Network, params: np.ndarray, buffers: np.ndarray) -> Arrays:
    """Returns the arrays of a flat model f32 [d], f32 [b] by name."""
    flat = np.concatenate([params, buffers])
    found, start = {}, 0
    for name, shape in shapes_of(network).items():
        stop = start + int(np.prod(shape))
        found[name] = flat[start:stop].reshape(shape)
        start = stop
    return found


def load_start(path: str, network: Network) -> Start:
    """Reads what `config.model.init` names.

    Raises:
      InputError: it is not there or damaged, or not of this network: one line names the
        array, what was found and what is needed.
    """
    place = _expanded(path)
    arrays = read_run(place) if place.is_dir() else read_file(place)
    shapes = shapes_of(network)
    start = f"config.model.init = '{path}'"
    for name, shape in shapes.items():
        if name not in arrays:
            raise InputError(
                f"{start}: {name} is not there; "
                f"{did_you_mean(name, arrays) if arrays else 'it has no arrays'}"
            )
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise InputError(
                f"{start}: {name} is {array.dtype}{list(array.shape)}, "
                f"float32{list(shape)} is needed"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{start}: {name} has values that are not finite")
    more = sorted({*arrays} - {*shapes})
    if more:
        raise InputError(f"{start}: config.model has no {', '.join(more[:3])}")
    flat = np.concatenate([arrays[name].ravel() for name in shapes])
    size = network.layout.size
    digest = hashlib.sha256()
    for name in shapes:
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].astype("<f4").tobytes())
    model = GlobalModel(cast(Array, flat[:size]), cast(Array, flat[size:]))
    return Start(model, digest.hexdigest()[:16])


def _expanded(path: str) -> Path:
    try:
        place = Path(path).expanduser()
        if place.exists():
            return place
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"config.model.init = '{path}': {error}") from error
    raise InputError(f"config.model.init = '{path}' does not exist")


def newest_arrays(run: Path) -> tuple[int, Mapping[str, np.ndarray]]:
    """Returns the round and the arrays of a run's newest checkpoint, by path.

    Raises:
      InputError: there is none that can be read.
    """
    none = InputError(f"{run}: the run has no checkpoint yet (config.checkpoint)")
    if not (run / "checkpoints").is_dir():
        raise none
    checkpoints = Checkpoints(run / "checkpoints")
    try:
        done = checkpoints.latest()
        if done is None:
            raise none
        return done, checkpoints.arrays(done)
    finally:
        checkpoints.close()


def read_run(workdir: Path) -> Arrays:
    """Returns the global model of a run's newest checkpoint by name.

    Raises:
      InputError: there is no run, or no checkpoint that can be read.
    """
    for name in ("config.json", "provenance.json", "checkpoints"):
        if not (workdir / name).exists():
            raise InputError(f"{workdir}: there is no run (no {name})")
    config = resolve(read_json(workdir / "config.json"))
    data = read_json(workdir / "provenance.json", "data")["data"]
    network = network_of(config, tuple(data["image_shape"]), data["classes"])
    done, state = newest_arrays(workdir)
    if done < config.rounds:
        note(f"{workdir}: the model after round {done} of {config.rounds} is taken")
    empty = np.zeros(0, np.float32)  # is not in a checkpoint
    return split(network, state["[0].params"], state.get("[0].buffers", empty))
