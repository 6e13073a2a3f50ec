"""One run over the devices of several processes, on one host or many.

Every process starts the same command and loads the same data; JAX connects them, and
`config.execution.devices` counts the devices of all. Each process holds the whole of
every array (replicated) and goes through the same loop, for the devices of all must run
the same programs in the same order. Process 0 leads: it alone reads and writes the run
directory and prints, and where the processes might differ (how many rounds come next,
whether to stop) they ask each other or take what the leader says.

Processes live and die together. What the user can fix ends all of them with exit code 2
(`agreement`); anything else ends the process at once, whereupon the connections of the
others break and they end, too. With one process, nothing here communicates.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_sim.core.errors import InputError

PyTree = Any

AUTO = "auto"
EXIT_FAILED = 1
_LINE = 500  # bytes of an error message that the other processes are told


# -------------------------------------------------------------------- connection


@contextlib.contextmanager
def connected(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    devices: int,
) -> Iterator[None]:
    """Connects this process with the others, before JAX's backend starts.

    Args:
      coordinator: HOST:PORT at which process 0 listens; `auto`: JAX finds it, and the
        two numbers, where it knows the cluster (Slurm, Open MPI, TPU pods, ...); None:
        this process is alone.
      num_processes, process_id: of the run, if the coordinator is HOST:PORT.
      devices: CPU devices that all processes have together. With `auto` each has one.

    Raises:
      InputError: flags that do not fit together, or a port that is taken. (If nobody
        answers for five minutes, JAX itself aborts the process.)
    """
    if coordinator is None:
        for name, value in (
            ("num_processes", num_processes),
            ("process_id", process_id),
        ):
            if value is not None:
                raise InputError(f"--{name}={value} needs --coordinator=HOST:PORT")
        if devices > 1:
            jax.config.update("jax_num_cpu_devices", devices)
        yield
        return
    _connect(coordinator, num_processes, process_id, devices)
    try:
        with contextlib.ExitStack() as stack:
            if not is_leader():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except InputError:
        raise
    except BaseException:  # a clean end would wait for the others, who wait for us
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_FAILED)


def _connect(
    coordinator: str, num_processes: int | None, process_id: int | None, devices: int
) -> None:
    given: dict[str, Any] = {
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if coordinator == AUTO:
        address = None
        for name, value in given.items():
            if value is not None:
                raise InputError(f"--{name}={value}: --coordinator=auto finds it")
    else:
        address = coordinator
        if not coordinator.rpartition(":")[2].isdigit():
            raise InputError(
                f"--coordinator={coordinator} must be HOST:PORT of process 0, or auto"
            )
        for name, value in given.items():
            if value is None:
                raise InputError(f"--coordinator={coordinator} needs --{name}")
        assert num_processes is not None and process_id is not None
        if process_id >= num_processes:
            raise InputError(
                f"--process_id={process_id} must be less than "
                f"--num_processes={num_processes}"
            )
        jax.config.update("jax_num_cpu_devices", max(devices // num_processes, 1))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(address, **given)
    except ValueError:  # what it lacks to start
        raise InputError(
            "--coordinator=auto: JAX knows no cluster here; allowed: HOST:PORT of "
            "process 0, with --num_processes and --process_id"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--coordinator={coordinator}: {reason}") from None
    # JAX takes SIGTERM for itself; a run notes it on its own, in its loop.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def is_leader() -> bool:
    """Whether this process owns the run directory and the terminal."""
    return jax.process_index() == 0


def make_mesh(devices: int) -> Mesh | None:
    """The devices among which clients are shared; None: there is one.

    Raises:
      InputError: there are not so many, or the processes cannot give equally many.
    """
    processes = jax.process_count()
    if devices == processes == 1:
        return None
    share, rest = divmod(devices, processes)
    if rest:
        raise InputError(
            f"config.execution.devices = {devices} must be a multiple of the "
            f"{processes} processes, which give equally many"
        )
    found = jax.devices()
    chosen = [d for i in range(processes) for d in _of_process(found, i)[:share]]
    if len(chosen) < devices:
        raise InputError(
            f"config.execution.devices = {devices}, but JAX sees {len(found)} "
            f"device(s) of the {jax.default_backend()} backend"
        )
    return Mesh(np.array(chosen), ("clients",))


def _of_process(devices: list[jax.Device], index: int) -> list[jax.Device]:
    return [device for device in devices if device.process_index == index]


# ------------------------------------------------------------------------ arrays


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Puts arrays on the device, or the whole of each on every device of a mesh.

    All processes give the same arrays.
    """
    if jax.process_count() == 1:
        where = NamedSharding(mesh, P()) if mesh else jax.devices()[0]
        return jax.device_put(tree, where)

    def place(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:  # there already
            return x
        assert mesh is not None, "several processes share the devices of a mesh"
        return multihost_utils.host_local_array_to_global_array(x, mesh, P())

    return jax.tree.map(place, tree)


def local(tree: PyTree) -> PyTree:
    """Returns this process's copy of replicated arrays.

    What is computed of it concerns no other process.
    """
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def from_leader(tree: PyTree) -> PyTree:
    """Returns the leader's arrays, bit by bit.

    Args:
      tree: of host arrays; the others give one of the same shapes and types.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    packed = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    received = multihost_utils.broadcast_one_to_all(packed).tobytes()
    filled, start = [], 0
    for leaf in leaves:
        part = np.frombuffer(received, leaf.dtype, leaf.size, start)
        filled.append(part.reshape(leaf.shape))
        start += leaf.nbytes
    return jax.tree.unflatten(structure, filled)


# ----------------------------------------------------------------------- control


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all ask at the same time."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def smallest(number: int) -> int:
    """The smallest of the processes' numbers (below 2^31)."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).min())


class Agreement:
    """What all processes must have in common; see `agreement`."""

    def __init__(self):
        self.facts: Any = None  # JSON values


@contextlib.contextmanager
def agreement() -> Iterator[Agreement]:
    """Lets all processes go on together or not at all.

    Inside, nothing may communicate.

    Raises:
      InputError: in every process, if it was raised in one of them or if the facts
        they found differ.
    """
    found, own, text = Agreement(), None, ""
    try:
        yield found
    except InputError as error:
        own, text = error, str(error)
    if jax.process_count() > 1:
        _compare(found.facts, text)
    if own is not None:
        raise own


def _compare(facts: Any, complaint: str) -> None:
    line = np.zeros(_LINE, np.uint8)
    encoded = complaint.encode()[:_LINE]
    line[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    digest = np.uint32(zlib.crc32(json.dumps(facts, sort_keys=True).encode()))
    lines, digests = multihost_utils.process_allgather((line, digest))
    if complaint:  # which its own process raises
        return
    for process, other in enumerate(lines):
        said = bytes(other).rstrip(b"\0").decode(errors="replace")
        if said:
            raise InputError(f"process {process}: {said}")
    for process, other in enumerate(digests):
        if other != digests[0]:
            raise InputError(
                f"process {process} has another config, data set or memory than "
                "process 0; all must start the same command on the same data"
            )
