"""How the work of a run is laid out: batches, stacks of clients, and their memory."""

from typing import NamedTuple

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Lowering, Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import accelerators, memory
from fedjax_sim.experiment.needs import on_a_cpu, on_an_accelerator, pass_bytes
from fedjax_sim.experiment.target import Target
from fedjax_sim.round.execution import (
    Strategy,
    auto_lowering,
    auto_strategy,
    even_stacks,
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
    each = (pass_bytes(network, None, most) - 8 * network.layout.size) / most
    return max(fitting) if each * size > _LARGE_PASS else None


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
    run = config, work, dataset, spec, sides
    on_cpu = target.backend == "cpu"
    needs = on_a_cpu(*run) if on_cpu else on_an_accelerator(*run, target.backend)
    limit = config.execution.memory_gib
    on_device = -(-cohort_size // config.execution.devices)
    if limit != "unlimited":
        allowed = target.memory if limit == "auto" else int(limit * memory.GIB)
        if on_cpu:
            strategy = memory.plan(strategy, on_device, needs, allowed, auto)
        elif auto:  # a first guess; what is compiled decides (`runs.fitting`)
            strategy = memory.guess(strategy, on_device, needs, allowed)
    return Layout(strategy, needs.total(even_stacks(strategy, on_device)[0]))
