"""What a run needs of a device's memory, estimated before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Network, PyTree
from fedjax_sim.experiment.fusion import fused_peak_bytes
from fedjax_sim.experiment.memory import Needs, peak_bytes
from fedjax_sim.round import training
from fedjax_sim.round.state import Sides
from fedjax_sim.round.training import LocalWork

# A TPU (v5e) keeps arrays as small as this in the chip's own memory. It lays the
# updates of a cohort out in tiles of eight clients, and in two arrays.
_ON_CHIP, _TILE = 2**27, 8


def on_a_cpu(
    config: Config,
    work: LocalWork,
    dataset: Dataset,
    spec: FederationSpec,
    sides: Sides,
) -> Needs:
    """What a run needs on a CPU, where host and device share the memory."""
    del config
    one_pass = pass_bytes(spec.network, work.microbatch, work.batch_size)
    vector = 4 * spec.layout.size
    kept, own_work = _server_bytes(work, spec, sides)
    # The cohort's updates as they are collected, reordered and reduced.
    updates = (3 * spec.cohort_size + 4) * vector
    return Needs(
        # Besides one backward pass: local parameters, momentum, optimiser step, update.
        per_client=one_pass + 4 * vector,
        fixed=2 * _image_bytes(dataset) + updates + 2 * kept + own_work,
    )


def on_an_accelerator(
    config: Config,
    work: LocalWork,
    dataset: Dataset,
    spec: FederationSpec,
    sides: Sides,
    backend: str,
) -> Needs:
    """The same on an accelerator (`gpu` or `tpu`), as XLA compiles for GPUs."""
    network = spec.network
    one_pass = fused_peak_bytes(*_gradient(network, work.microbatch, work.batch_size))
    vector = 4 * spec.layout.size
    kept, own_work = _server_bytes(work, spec, sides)
    resident = _image_bytes(dataset) + 4 * vector + kept
    evaluated = min(config.evaluation.batch_size, len(dataset.test_images))
    evaluation = _evaluation_bytes(network, evaluated)
    updates = spec.cohort_size * vector
    if backend == "tpu":
        tiles = -(-spec.cohort_size // _TILE) * _TILE * vector
        updates = 2 * tiles if tiles > _ON_CHIP else updates
        evaluation = evaluation if evaluation > _ON_CHIP else 0
    return Needs(
        # Besides one backward pass: momentum and update.
        per_client=one_pass + 2 * vector,
        fixed=resident + updates + 4 * vector + kept + own_work,
        evaluation=resident + evaluation,
    )


def _evaluation_bytes(network: Network, size: int) -> int:
    images = jax.ShapeDtypeStruct((size, *network.image_shape), jnp.float32)
    params, buffers = (
        jax.ShapeDtypeStruct((layout.size,), jnp.float32)
        for layout in (network.layout, network.buffer_layout)
    )
    return fused_peak_bytes(network.logits, params, buffers, images)


def _image_bytes(dataset: Dataset) -> int:
    return dataset.train_images.nbytes + dataset.test_images.nbytes


def _server_bytes(
    work: LocalWork, spec: FederationSpec, sides: Sides
) -> tuple[int, int]:
    """What the sides keep from round to round, and the defence's own work."""

    def kept(key: jax.Array) -> PyTree:
        own = spec._replace(key=key)
        memories = sides.client.training and sides.client.training.init(own)
        return sides.defense.init(own), memories

    state = jax.eval_shape(kept, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    if work.persist_momentum:
        size += 4 * spec.population * spec.layout.size
    own_work = sides.defense.memory
    return size, own_work(spec) if own_work else 0


def pass_bytes(network: Network, microbatch: int | None, size: int) -> int:
    """Estimated bytes of the gradient of a batch."""
    return peak_bytes(*_gradient(network, microbatch, size))


def _gradient(network: Network, microbatch: int | None, size: int) -> tuple[Any, ...]:
    """The gradient of a batch, and the shapes of its arguments."""
    model = network.model
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((size, *network.image_shape)),
            jnp.zeros(size, jnp.int32),
            jnp.zeros(size, bool),
        )
    )
    return training.batch_gradient(model, microbatch), params, buffers, batch
