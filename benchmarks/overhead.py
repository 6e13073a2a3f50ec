"""What a round costs besides training, and whether the population matters."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.federated import train_data
from benchmarks.timing import best_of
from fedjax_sim import models
from fedjax_sim.attacks import none
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization
from fedjax_sim.defenses.drop.droplet import droplet
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.participation import sampling
from fedjax_sim.round import federation as fed
from fedjax_sim.round.batches import Reader
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import LocalWork


def small_federation(population: int, cohort: int, samples_each: int, defense):
    """A federation whose clients do almost nothing: what remains is overhead."""
    shape = (8, 8, 1)
    model = models.build("mlp", num_classes=10, image_shape=shape)
    data = train_data(shape, population, samples_each)
    federation = fed.make_federation(
        network=models.Network.of(model, shape, 10),
        reader=Reader(Augmentation(), normalization("half", 1), None),
        work=LocalWork(batch_size=samples_each),
        participation=sampling.uniform(population=population, cohort_size=cohort),
        sides=lambda options: (none(), defense),
        population=population,
        num_malicious=0,
        strategy=Strategy(1),
    )
    inputs = fed.Inputs(
        jax.random.key(0),
        data,
        jnp.zeros(population, bool),
        fed.Hyper(0.01, 0.9, 0.0, 1.0),
    )
    state = federation.init(inputs)
    program = jax.jit(
        lambda s, i, n: fed.run_rounds(federation.round_step, s, i, n, 20)[0]
    )
    return lambda: program(state, inputs, 20)


def bench_round() -> dict[str, Any]:
    """Milliseconds of a round with one tiny step per client."""
    seconds = best_of(
        {
            "fedavg": small_federation(50, 25, 8, fedavg()),
            "droplet": small_federation(50, 25, 8, droplet()),
        },
        5,
    )
    rows = {key: 1e3 * value / 20 for key, value in seconds.items()}
    print("\nround overhead, 25 clients of one tiny step")
    for key, value in rows.items():
        print(f"  {key}: {value:.2f} ms per round")
    return rows


def bench_population() -> dict[str, Any]:
    """The same cohort drawn from a small and a large population."""
    seconds = best_of(
        {str(n): small_federation(n, 50, 8, fedavg()) for n in (1_000, 100_000)},
        5,
    )
    rows = {key: 1e3 * value / 20 for key, value in seconds.items()}
    print("\npopulation, cohort of 50")
    for key, value in rows.items():
        print(f"  {key} clients: {value:.2f} ms per round")
    return rows
