"""Client steps per second of each network under each lowering and strategy."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from fedjax_sim import models
from fedjax_sim.contracts.model import Lowering
from fedjax_sim.numerics.flat import flat_layout, ravel
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import LocalWork

from .arithmetic import step_flops
from .federated import client_program, train_data
from .timing import beside_peak
from .torch_loop import torch_loop

LOWERINGS: tuple[Lowering, ...] = ("winograd", "blocked", "patches", "native")
# name -> (model, options, image shape, batch size, clients, steps)
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], int, int, int]] = {
    "cnn 28x28x1": ("cnn", {}, (28, 28, 1), 32, 8, 10),
    "wide_cnn 28x28x1 same": ("wide_cnn", {"padding": 1}, (28, 28, 1), 32, 8, 10),
    "cnn 32x32x3": ("cnn", {}, (32, 32, 3), 32, 8, 10),
    "convnet 32x32x3": ("convnet", {}, (32, 32, 3), 32, 4, 4),
    "resnet18 32x32x3": ("resnet18", {}, (32, 32, 3), 64, 2, 3),
}


def bench_clients(only: Sequence[str] | None = None) -> dict[str, Any]:
    """Client steps per second of each model under each strategy.

    Args:
      only: names of models; None measures all of `MODELS`.
    """
    results = {}
    cpu = jax.default_backend() == "cpu"
    for label, (name, options, shape, batch, clients, steps) in MODELS.items():
        if only and name not in only:
            continue
        data = train_data(shape, clients, batch * steps)
        programs: dict[str, Callable[[], Any]] = {}
        for lowering in LOWERINGS:
            model = models.build(
                name, num_classes=10, image_shape=shape, lowering=lowering, **options
            )
            params, buffers = model.init(jax.random.key(0))
            layout, flat = flat_layout(params), ravel(params)
            for strategy, stack in (("map", 1), ("chunk:4", 4), ("vmap", None)):
                if stack == 4 and clients <= 4:
                    continue
                if cpu and lowering == "native" and (stack != 1 or name != "cnn"):
                    continue  # up to 100 times slower: one example is enough
                if lowering == "blocked" and (not cpu or stack != 1):
                    continue
                program = client_program(
                    model,
                    layout,
                    buffers,
                    LocalWork(batch),
                    Strategy(stack),
                    data,
                    clients,
                )
                key = f"{lowering} {strategy}"
                programs[key] = partial(program, data, flat)
        eager = torch_loop(name, options, shape, batch, steps)
        if eager is not None:
            programs["torch eager"] = eager
        seconds, peak = beside_peak(programs, 6)
        flops = step_flops(
            models.build(name, num_classes=10, image_shape=shape, **options),
            shape,
            batch,
        )
        rows = {}
        for key, total in seconds.items():
            each = total / steps / (1 if key == "torch eager" else clients)
            rows[key] = {
                "ms_per_step": 1e3 * each,
                "steps_per_second": 1 / each,
                "fraction_of_peak": flops / each / peak,
            }
        print(
            f"\n{label}, batch {batch}, {flops / 1e9:.3f} GFLOP per step, "
            f"peak {peak / 1e9:.0f} GFLOP/s meanwhile"
        )
        for key, row in rows.items():
            ratio = ""
            if "torch eager" in rows and key != "torch eager":
                slow = rows["torch eager"]["ms_per_step"]
                ratio = f"   {slow / row['ms_per_step']:.2f} x torch"
            print(
                f"  {key:26s} {row['ms_per_step']:9.2f} ms/step "
                f"{row['steps_per_second']:8.1f} steps/s "
                f"{row['fraction_of_peak']:5.2f} of peak{ratio}"
            )
        results[label] = rows
    return results
