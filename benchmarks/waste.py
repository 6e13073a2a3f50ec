"""What clients of unequal size cost under each strategy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.data import partition as partitions
from fedjax_sim.numerics.flat import flat_layout, ravel
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import LocalWork

from .federated import client_program, train_data
from .timing import best_of


def bench_waste() -> dict[str, Any]:
    """What unequal clients cost: Dirichlet(0.1), 50 clients, batch 32."""
    labels = np.repeat(np.arange(10), 1_000)
    split = partitions.drop_dirichlet(labels, num_clients=50, seed=1, alpha=0.1)
    shape, batch = (28, 28, 1), 32
    model = models.build("cnn", num_classes=10, image_shape=shape)
    params, buffers = model.init(jax.random.key(0))
    base = train_data(shape, 1, len(labels))
    data = base._replace(
        indices=jnp.asarray(split.indices), counts=jnp.asarray(split.counts)
    )
    counts = split.counts
    work = LocalWork(batch, 1)
    layout, flat = flat_layout(params), ravel(params)
    programs: dict[str, Callable[[], Any]] = {}
    for key, stack in (("map", 1), ("chunk:5", 5), ("vmap", None)):
        program = client_program(
            model, layout, buffers, work, Strategy(stack), data, len(counts)
        )
        programs[key] = partial(program, data, flat)
    seconds = best_of(programs, 3)
    steps = -(-counts // batch)
    slots = {
        "map": int(steps.sum()),
        "chunk:5": int(5 * np.sort(steps)[::-1][::5].sum()),
        "vmap": int(len(counts) * steps.max()),
    }
    print(
        f"\nDirichlet(0.1): {len(counts)} clients of {counts.min()} to {counts.max()} "
        f"samples, mean {counts.mean():.0f}"
    )
    rows = {}
    for key, total in seconds.items():
        rows[key] = {
            "padded_over_real_samples": slots[key] * batch / int(counts.sum()),
            "seconds": total,
            "us_per_real_sample": 1e6 * total / int(counts.sum()),
        }
        print(
            f"  {key:8s} {rows[key]['padded_over_real_samples']:6.2f} samples computed "
            f"per real one, {rows[key]['us_per_real_sample']:7.1f} us per real sample"
        )
    return rows
