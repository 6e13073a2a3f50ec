"""How the work of a run is laid out: batches, stacks of clients, and their memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Lowering, Model, PyTree
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


def clock_of(config: Config, backend: str) -> bool:
    """Whether the host's clock is read in every round; `auto`: on a CPU only."""
    asked = config.execution.clock
    return backend == "cpu" if asked == "auto" else asked


def make_work(config: Config, model: Model) -> LocalWork:
    """Returns what a client does in a round.

    Raises:
      InputError: batches that the model cannot split.
    """
    return LocalWork(
        config.client.batch_size,
        config.client.epochs,
        config.client.steps,
        _microbatch(config, model),
        config.client.persist_momentum,
    )


def _microbatch(config: Config, model: Model) -> int | None:
    """The largest divisor of the batch size that is at most what was asked for."""
    wanted = config.execution.microbatch
    if wanted == "off":
        return None
    if model.couples_samples:
        raise InputError(
            f"config.execution.microbatch = {wanted}: {model.name} has batch "
            "statistics, its batches cannot be split; allowed: off"
        )
    size = config.client.batch_size
    return max(
        part for part in range(1, size + 1) if size % part == 0 and part <= wanted
    )


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
    model, cohort_size = spec.network.model, spec.cohort_size
    asked = config.execution.clients
    auto = asked == "auto"
    strategy = auto_strategy(target.backend) if auto else parse_strategy(asked)
    if auto and target.backend != "cpu":
        strategy = accelerators.choose(target.backend, config.model.name).strategy
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))
    size = work.batch_size
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((size, *dataset.train_images.shape[1:])),
            jnp.zeros(size, jnp.int32),
            jnp.zeros(size, bool),
        )
    )
    gradient = training.batch_gradient(model, work.microbatch)
    vector = 4 * spec.layout.size
    # Besides one backward pass: local parameters, momentum, optimiser step, update.
    per_client = memory.peak_bytes(gradient, params, buffers, batch) + 4 * vector
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
