"""One prepared session on an accelerator: what `docs/accelerators.md` wants to know.

    python -m benchmarks.device_session --out=DIR [--minutes=8] [--tiny]

from the root of a checkout; it needs no network and no data. After each part it prints
what it found and writes DIR/device_session.json, so that a session cut short keeps what
it has. Parts for which the time is too short are named as left out. `--tiny` rehearses
all of it on a CPU, with sizes that mean nothing.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from fedjax_sim import models
from fedjax_sim.contracts.model import Lowering
from fedjax_sim.experiment.config import resolve
from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.numerics import distances, order_statistics
from fedjax_sim.numerics.flat import flat_layout, ravel
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import LocalWork
from fedjax_sim.runs import loop
from fedjax_sim.runs.run import Job

from .arithmetic import step_flops
from .clients import MODELS
from .defenses import bench_defenses
from .federated import client_program, train_data
from .timing import best_of
from .torch_loop import torch_loop

# In this order: the first ones tell most.
LAYOUTS: tuple[tuple[Lowering, str, int | None], ...] = (
    ("native", "map", 1),
    ("native", "vmap", None),
    ("patches", "vmap", None),
    ("patches", "map", 1),
    ("native", "chunk:8", 8),
    ("patches", "chunk:8", 8),
)
_DROP = Path(__file__).parents[1] / "configs/drop/cifar10.py"


class Session:
    """Parts within a time, and what they found."""

    def __init__(self, out: Path, minutes: float):
        self.path, self.failed = out / "device_session.json", 0
        self.results: dict[str, Any] = {}
        self._end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()

    def part(self, name: str, least: float, work: Callable[[], Any]) -> None:
        """Carries a part out if at least so many seconds are left."""
        if self.left() < least:
            self.results[name] = f"left out: {self.left():.0f} s left of {least:.0f}"
        else:
            begun = time.monotonic()
            try:
                found = work()
            except Exception:  # written and counted; the parts after it may work
                self.failed += 1
                found = {"failed": traceback.format_exc()}
            self.results[name] = found
            self.results[f"{name}: seconds"] = time.monotonic() - begun
        print(f"\n{name}: {json.dumps(self.results[name], indent=1)}", flush=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")


def peaks(tiny: bool) -> dict[str, float]:
    """TFLOP/s of a large matmul, by type and precision; GB/s of a sum."""
    size = 256 if tiny else 8192
    found = {}
    for name, dtype, precision in (
        ("bfloat16", jnp.bfloat16, "default"),
        ("float32 default", jnp.float32, "default"),
        ("float32 tensorfloat32", jnp.float32, "tensorfloat32"),
        ("float32 highest", jnp.float32, "highest"),
    ):
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        multiply = jax.jit(partial(jnp.dot, precision=precision))
        seconds = best_of({"": partial(multiply, a, a)}, 20)[""]
        found[name] = 2 * size**3 / seconds / 1e12
    x = jnp.ones(1_000_000 if tiny else 250_000_000)
    total = jax.jit(lambda x: x.reshape(-1, 10_000).sum(0))
    found["GB/s read"] = x.nbytes / best_of({"": partial(total, x)}, 10)[""] / 1e9
    return found


def client_steps(session: Session, label: str, tiny: bool) -> dict[str, Any]:
    """Milliseconds of a client's step by layout: a cohort of 10, batch 64."""
    name, options, shape, *_ = MODELS[label]
    clients, batch, steps = (2, 4, 1) if tiny else (10, 64, 10)
    if name == "resnet18" and not tiny:
        steps = 3
    build = partial(models.build, name, num_classes=10, image_shape=shape, **options)
    flops = step_flops(build(), shape, batch)
    data = train_data(shape, clients, batch * steps)
    found: dict[str, Any] = {"GFLOP per step": flops / 1e9}
    for lowering, strategy, stack in LAYOUTS[:2] if tiny else LAYOUTS:
        key = f"{lowering} {strategy}"
        if session.left() < 60 and not tiny:
            found[key] = "left out: time"
            continue
        model = build(lowering=lowering)
        params, buffers = model.init(jax.random.key(0))
        work = LocalWork(batch)
        program = client_program(
            model, flat_layout(params), buffers, work, Strategy(stack), data, clients
        )
        begun = time.monotonic()
        jax.block_until_ready(program(data, ravel(params)))
        first = time.monotonic() - begun
        seconds = best_of({"": partial(program, data, ravel(params))}, 3)[""]
        each = seconds / clients / steps
        found[key] = {
            "ms per step": 1e3 * each,
            "TFLOP/s": flops / each / 1e12,
            "first call s": first,
        }
    eager = torch_loop(name, options, shape, batch, steps)
    if eager is not None:
        found["torch eager ms per step"] = 1e3 * best_of({"": eager}, 3)[""] / steps
    return found


def server(tiny: bool) -> dict[str, Any]:
    """The median, the Gram matrix, FLARE and an iteration of DROP's distillation."""
    n, d = (5, 10_000) if tiny else (50, 1_200_000)
    x = jax.random.normal(jax.random.key(0), (n, d))
    median = jax.jit(lambda x: order_statistics.median(x, jnp.ones(n, bool)))
    gram = jax.jit(distances.squared_distances)
    seconds = best_of({"median": partial(median, x), "gram": partial(gram, x)}, 5)
    found: dict[str, Any] = {f"{key} ms": 1e3 * s for key, s in seconds.items()}
    sizes = {"n": 5, "samples": 20, "batch": 8} if tiny else {}
    return found | bench_defenses(("median", "flame", "flare", "drop"), **sizes)


def seeds_together(tiny: bool) -> dict[str, float]:
    """Sixteen seeds of the small CNN in one program, against one run; seconds."""
    images = {"num_train": 200, "num_test": 50} if tiny else {}
    base = {
        "rounds": 2 if tiny else 10,
        "data": {"name": "synthetic", "height": 28, "width": 28, **images},
        "model": {"name": "cnn"},
        "client": {"batch_size": 16 if tiny else 64, "epochs": 1},
        "checkpoint": {"every_seconds": 1e6},
    }
    count = 2 if tiny else 16
    configs = [resolve({**base, "seed": seed}) for seed in range(count)]
    found = {}
    for name, strategy, chosen in (
        ("one", None, configs[:1]),
        (f"{count} together, vmap", Strategy(None), configs),
        (f"{count} together, map", Strategy(1), configs),
    ):
        jax.clear_caches()
        with quiet_folder() as folder:
            jobs = [Job(c, folder / str(c.seed)) for c in chosen]
            begun = time.monotonic()
            loop.run_together(jobs, strategy)
            found[name] = time.monotonic() - begun
    return found


def resnet_rounds(tiny: bool) -> dict[str, Any]:
    """Three rounds of DROP, C4, ResNet-18, on images of CIFAR-10's size."""
    changes: dict[str, Any] = {
        "rounds": 3,
        "data.name": "synthetic",
        "data.height": 32,
        "data.width": 32,
        "data.channels": 3,
        "data.num_train": 1000 if tiny else 50_000,
        "data.num_test": 1000,
    }
    if tiny:
        changes |= {"model.name": "cnn", "client.epochs": 1, "attack.dpr": 1.0}
    own = resolve_variants(load_file(f"{_DROP}:defense=drop,learning=C4"), changes)
    (config,) = own.values()
    with quiet_folder() as folder:
        code, summary = loop.run(config, folder / "run")
        provenance = json.loads((folder / "run" / "provenance.json").read_text())
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "exit code": code,
        "seconds": summary["seconds"],
        "plan": provenance["execution"],
        "peak GiB": stats.get("peak_bytes_in_use", 0) / 2**30,
        "limit GiB": stats.get("bytes_limit", 0) / 2**30,
    }


@contextlib.contextmanager
def quiet_folder() -> Iterator[Path]:
    """A folder for runs whose progress nobody reads."""
    logging.set_verbosity(logging.WARNING)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="device_session")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    session, tiny = Session(given.out, given.minutes), given.tiny
    device = jax.devices()[0]
    versions = {"jax": jax.__version__, "device": device.device_kind, "tiny": tiny}
    session.part("machine", 0, lambda: versions)
    session.part("peaks", 20, partial(peaks, tiny))
    steps = partial(client_steps, session)
    small, *others, resnet = MODELS
    session.part(small, 60, partial(steps, small, tiny))
    session.part("three rounds of DROP", 90, partial(resnet_rounds, tiny))
    session.part("server", 60, partial(server, tiny))
    session.part("seeds together", 60, partial(seeds_together, tiny))
    for label in (resnet, *others):
        session.part(label, 60, partial(steps, label, tiny))
    return 1 if session.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
