"""Where a run is carried out, or what it is compiled for.

`here` is what JAX finds. `described` is a device that need not be here: XLA compiles
for a TPU's topology, and for a GPU by a description of it.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim.core import distributed
from fedjax_sim.core.errors import InputError, did_you_mean

GIB = 2.0**30
USABLE = 0.9  # leave room for the runtime's own buffers


class Chip(NamedTuple):
    """What is published of a device.

    Attributes:
      gib: memory that a program may use, in GiB.
      flops: dense FLOP/s of its matrix units in the type that JAX's default precision
        of float32 uses there: bfloat16 (TPU), TensorFloat-32 (NVIDIA).
      bandwidth: of the memory, bytes/s.
    """

    gib: float
    flops: float
    bandwidth: float


class Target(NamedTuple):
    """A backend and its devices.

    Attributes:
      name: as the user gives it, such as `tpu:v5e:2x2`.
      backend: cpu, gpu or tpu.
      devices: those that may share the clients.
      memory: bytes of one device that a run may use.
      chip: what is published of it, if it is known.
      here: the devices are real.
    """

    name: str
    backend: str
    devices: tuple[jax.Device, ...]
    memory: int
    chip: Chip | None = None
    here: bool = False

    def mesh(self, count: int) -> Mesh | None:
        """The devices among which clients are shared; None: there is one.

        Raises:
          InputError: there are not so many.
        """
        if self.here:
            return distributed.make_mesh(count)
        if count > len(self.devices):
            raise InputError(
                f"config.execution.devices = {count}, but {self.name} has "
                f"{len(self.devices)} device(s)"
            )
        return Mesh(np.array(self.devices[:count]), ("clients",)) if count > 1 else None

    def whole(self, mesh: Mesh | None) -> Sharding:
        """Every device of the mesh holds the whole of an array, or the first one."""
        if mesh is not None:
            return NamedSharding(mesh, P())
        return SingleDeviceSharding(self.devices[0])


def here() -> Target:
    """Returns what JAX finds."""
    backend = jax.default_backend()
    return Target(backend, backend, tuple(jax.devices()), available_bytes(), here=True)


def available_bytes() -> int:
    """Memory of this process's first device that a run may use."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"] * USABLE)
    return int(psutil.virtual_memory().available * USABLE)


# --------------------------------------------------------- devices that are described

# Memory: what the compiler of libtpu 0.0.50 says is available. Peaks and bandwidths:
# cloud.google.com/tpu/docs/v4, v5e and v6e (of a core; a chip of v4 has two).
_TPUS = {
    "v4": Chip(15.25, 137.5e12, 614e9),
    "v5e": Chip(15.75, 197e12, 819e9),
    "v6e": Chip(31.24, 918e12, 1640e9),
}
# Memory: the three quarters that JAX takes of 80 GB. Peaks and bandwidths: the data
# sheets of H100 SXM and A100 SXM 80GB, without sparsity.
_GPUS = {
    "a100": Chip(59.5, 156e12, 2039e9),
    "h100": Chip(59.5, 494.7e12, 3352e9),
}
# What the compiler asks of a GPU: the CUDA programming guide's table of compute
# capabilities 8.0 and 9.0, and the data sheets.
_GPU_FACTS: dict[str, dict[str, Any]] = {
    "a100": {
        "capability": "major: 8 minor: 0",
        "description": "NVIDIA A100-SXM4-80GB",
        "shared_memory_per_core": 164 * 1024,
        "shared_memory_per_block_optin": 163 * 1024,
        "core_count": 108,
        "fpus_per_core": 64,
        "memory_bandwidth": 2039 * 10**9,
        "l2_cache_size": 40 * 2**20,
        "clock_rate_ghz": 1.41,
        "device_memory_size": 85 * 10**9,
    },
    "h100": {
        "capability": "major: 9 minor: 0",
        "description": "NVIDIA H100 80GB HBM3",
        "shared_memory_per_core": 228 * 1024,
        "shared_memory_per_block_optin": 227 * 1024,
        "core_count": 132,
        "fpus_per_core": 128,
        "memory_bandwidth": 3352 * 10**9,
        "l2_cache_size": 50 * 2**20,
        "clock_rate_ghz": 1.98,
        "device_memory_size": 85 * 10**9,
    },
}
_GPU_LIMITS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 48 * 1024,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
}


def published_chip(text: str) -> Chip:
    """Returns what is published of a device; nothing needs to be installed.

    Args:
      text: `cuda:CARD`, or `tpu:GENERATION` with or without a topology.

    Raises:
      InputError: there is none of that name.
    """
    kind, _, rest = text.partition(":")
    table = {"tpu": _TPUS, "cuda": _GPUS}.get(kind, {})
    name = rest.partition(":")[0]
    if name not in table:
        names = [f"tpu:{n}" for n in _TPUS] + [f"cuda:{n}" for n in _GPUS]
        raise InputError(f"--target={text} is no target; allowed: {', '.join(names)}")
    return table[name]


EXAMPLES = "cpu, tpu:v5e:2x2, tpu:v6e:1x1, tpu:v4:2x2x1, cuda:h100, cuda:a100"


def described(text: str) -> Target:
    """Returns the target that a text names.

    Args:
      text: `cpu`; `tpu:GENERATION:TOPOLOGY`; `cuda:CARD`.

    Raises:
      InputError: there is none of that name, what it needs is not installed, or the
        installed library refuses the topology.
    """
    kind, _, rest = text.partition(":")
    if kind == "cpu" and not rest:
        cpus = tuple(jax.devices("cpu"))
        return Target("cpu", "cpu", cpus, available_bytes())
    if kind == "tpu":
        return _tpu(text, rest)
    if kind == "cuda":
        return _gpu(text, rest)
    raise InputError(f"--target={text} is no target; allowed: {EXAMPLES}")


def _tpu(text: str, rest: str) -> Target:
    generation, _, topology = rest.partition(":")
    if generation not in _TPUS or not topology:
        hint = did_you_mean(generation, _TPUS)
        raise InputError(
            f"--target={text}: tpu:GENERATION:TOPOLOGY, such as tpu:v5e:2x2; {hint}"
        )
    # Else libtpu asks a metadata server, and only one process at a time may load it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    devices = _devices(text, "tpu", "[tpu]", f"{generation}:{topology}")
    chip = _TPUS[generation]
    return Target(text, "tpu", devices, int(chip.gib * GIB), chip)


def _gpu(text: str, card: str) -> Target:
    if card not in _GPUS:
        hint = did_you_mean(card, _GPUS)
        raise InputError(f"--target={text}: cuda:CARD; {hint}")
    facts = {**_GPU_LIMITS, **_GPU_FACTS[card]}
    capability, name = facts.pop("capability"), facts.pop("description")
    fields = " ".join(f"{key}: {value}" for key, value in facts.items())
    config = (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ {capability} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
        f'runtime_version {{ major: 13 }} device_description_str: "{name}"'
    )
    # Else the plugin does not load without cuDNN, which only running needs.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    devices = _devices(
        text, "cuda", "[aot]", "", target_config=config, topology="1x1x1"
    )
    chip = _GPUS[card]
    return Target(text, "gpu", devices, int(chip.gib * GIB), chip)


def _devices(
    text: str, platform: str, extra: str, name: str, **options: str
) -> tuple[jax.Device, ...]:
    from jax.experimental import topologies  # imports what a run does not need

    try:
        found = topologies.get_topology_desc(name, platform, **options)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        if not _installed[platform]():
            raise InputError(
                f"--target={text} needs what `pip install 'fedjax_sim{extra}'` installs"
            ) from None
        raise InputError(
            f"--target={text}: refused by the installed library ({reason})"
        ) from None
    return tuple(found.devices)


def _found(*modules: str) -> bool:
    from importlib.util import find_spec

    return any(find_spec(module) is not None for module in modules)


_installed: dict[str, Callable[[], bool]] = {
    "tpu": lambda: _found("libtpu"),
    "cuda": lambda: _found("jax_cuda13_plugin", "jax_cuda12_plugin"),
}
