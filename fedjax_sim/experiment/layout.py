"""How the work of a run is laid out: batches, stacks of clients, and their memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Lowering, Network, PyTree
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import accelerators, memory
from fedjax_sim.experiment.target import Target
from fedjax_sim.round import training
from fedjax_sim.round.execution import (
    Strategy,
    auto_lowering,
    auto_strategy,
    parse_strategy,
    strategy_name,
)
from fedjax_sim.round.state import Sides
from fedjax_sim.round.training import LocalWork

# Samples that `auto` may take at a time on a CPU, and from how many bytes of a batch on
# it does: measured where a core has 1 MB of second- and 16 of third-level cache.
_PARTS = range(16, 33)
_LARGE_PASS = 2**23


class Layout(NamedTuple):
    """How clients share the devices, and what that needs."""

    strategy: Strategy
    estimated_bytes: int  # on one device, while a round is computed

    @property
    def name(self) -> str:
        """As the config names it."""
        return strategy_name(self.strategy)


def lowering_of(config: Config, backend: str) -> Lowering:
    """How convolutions are computed on a backend (cpu, gpu or tpu)."""
    asked = config.execution.lowering
    if asked == "auto" and backend != "cpu":
        return accelerators.choose(backend, config.model.name).lowering
    return auto_lowering(backend) if asked == "auto" else asked


def make_work(config: Config, network: Network) -> LocalWork:
    """Returns what a client does in a round.

    Raises:
      InputError: batches that the model cannot split.
    """
    return LocalWork(
        config.client.batch_size,
        config.client.epochs,
        config.client.steps,
        _microbatch(config, network),
        config.client.persist_momentum,
    )


def _microbatch(config: Config, network: Network) -> int | None:
    """The largest divisor of the batch size that is at most what was asked for."""
    wanted, size = config.execution.microbatch, config.client.batch_size
    if wanted == "off":
        return None
    if wanted == "auto":
        return cached_part(network, size) if network.backend == "cpu" else None
    model = network.model
    if model.couples_samples:
        raise InputError(
            f"config.execution.microbatch = {wanted}: {model.name} has batch "
            "statistics, its batches cannot be split; allowed: auto, off"
        )
    return max(
        part for part in range(1, size + 1) if size % part == 0 and part <= wanted
    )


def cached_part(network: Network, size: int) -> int | None:
    """Returns how many samples of a batch a CPU takes at a time; None: all of them.

    Parts that stay in its cache, where the whole batch does not: 1.2 to 1.5 times
    faster for the networks with convolutions, and slower for those without, whose
    batches are small. A rule instead of a measurement at start, so that a run rounds
    the same way on every machine; `fedjax-sim bench --only=batches` compares.

    Args:
      network: that clients train.
      size: samples of a batch.
    """
    fitting = [part for part in _PARTS if size % part == 0]
    most = max(_PARTS)
    if network.model.couples_samples or size <= most or not fitting:
        return None
    # Without the parameters and their gradient.
    each = (_pass_bytes(network, None, most) - 8 * network.layout.size) / most
    return max(fitting) if each * size > _LARGE_PASS else None


def _pass_bytes(network: Network, microbatch: int | None, size: int) -> int:
    """Estimated bytes of the gradient of a batch."""
    model = network.model
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((size, *network.image_shape)),
            jnp.zeros(size, jnp.int32),
            jnp.zeros(size, bool),
        )
    )
    gradient = training.batch_gradient(model, microbatch)
    return memory.peak_bytes(gradient, params, buffers, batch)


def make_layout(
    config: Config,
    work: LocalWork,
    dataset: Dataset,
    spec: FederationSpec,
    sides: Sides,
    target: Target,
) -> Layout:
    """Returns the layout of a config, made to fit the memory of the target.

    Raises:
      InputError: nothing fits, or not what was asked for.
    """
    cohort_size = spec.cohort_size
    asked = config.execution.clients
    auto = asked == "auto"
    strategy = auto_strategy(target.backend) if auto else parse_strategy(asked)
    if auto and target.backend != "cpu":
        strategy = accelerators.choose(target.backend, config.model.name).strategy
    one_pass = _pass_bytes(spec.network, work.microbatch, work.batch_size)
    vector = 4 * spec.layout.size
    # Besides one backward pass: local parameters, momentum, optimiser step, update.
    per_client = one_pass + 4 * vector
    images = dataset.train_images.nbytes + dataset.test_images.nbytes
    # The cohort's updates as they are collected, reordered and reduced.
    fixed = 2 * images + (3 * cohort_size + 4) * vector + _kept_bytes(work, spec, sides)
    limit = config.execution.memory_gib
    on_device = -(-cohort_size // config.execution.devices)
    if limit != "unlimited" and target.backend != "cpu":
        # A first guess; what is compiled decides (`runs.fitting`).
        allowed = target.memory if limit == "auto" else limit * memory.GIB
        if auto:
            room = (allowed - fixed) / per_client
            strategy = memory.guess(strategy, on_device, room)
    elif limit != "unlimited":
        strategy = memory.plan(
            strategy,
            cohort_size=on_device,
            per_client=per_client,
            fixed=fixed,
            limit=target.memory if limit == "auto" else int(limit * memory.GIB),
            may_shrink=auto,
        )
    stack = min(strategy.stack or on_device, on_device)
    return Layout(strategy, fixed + stack * per_client)


def _kept_bytes(work: LocalWork, spec: FederationSpec, sides: Sides) -> int:
    """What the sides keep on the device, twice, and the defence's own work."""

    def kept(key: jax.Array) -> PyTree:
        own = spec._replace(key=key)
        memories = sides.client.training and sides.client.training.init(own)
        return sides.defense.init(own), memories

    state = jax.eval_shape(kept, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    if work.persist_momentum:
        size += 4 * spec.population * spec.layout.size
    own_work = sides.defense.memory
    return 2 * size + (own_work(spec) if own_work else 0)
