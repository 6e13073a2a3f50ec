"""What a round costs besides training, and whether the population matters."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.attacks.none import none
from fedjax_sim.contracts.attack import AttackSpec
from fedjax_sim.contracts.client import ClientSide, Hyper
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Network
from fedjax_sim.data.augment import Augmentation
from fedjax_sim.data.normalize import normalization
from fedjax_sim.defenses.droplet import droplet
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.participation.uniform import uniform
from fedjax_sim.round import federation as fed
from fedjax_sim.round.batches import Reader
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.state import Inputs, Sides
from fedjax_sim.round.training import LocalWork

from .federated import train_data
from .timing import best_of


def small_federation(population: int, cohort: int, samples_each: int, defense: Defense):
    """A federation whose clients do almost nothing: what remains is overhead."""
    shape = (8, 8, 1)
    model = models.build("mlp", num_classes=10, image_shape=shape)
    data = train_data(shape, population, samples_each)
    network = Network.of(model, shape, 10)
    norm = normalization("half", 1)
    parts = fed.Parts(
        network=network,
        spec=FederationSpec(population, cohort, 0, network.layout, 0, network),
        reader=Reader(Augmentation(), norm, None),
        work=LocalWork(batch_size=samples_each),
        participation=uniform(population=population, cohort_size=cohort),
        sides=lambda options: Sides(none(), defense, ClientSide()),
        attack_spec=AttackSpec(
            labels=np.asarray(data.labels),
            partition=Partition(np.asarray(data.indices), np.asarray(data.counts)),
            malicious_ids=np.array([], int),
            num_classes=10,
            image_shape=shape,
            normalization=norm,
            layout=network.layout,
            test_images=np.zeros((0, *shape), np.uint8),
            test_labels=np.zeros(0, np.int32),
        ),
        strategy=Strategy(1),
    )
    inputs = Inputs(
        jax.random.key(0),
        data,
        jnp.zeros(population, bool),
        Hyper(0.01, 0.9, 0.0, 1.0),
    )
    state = fed.init(parts, inputs)
    step = partial(fed.round_step, parts)
    program = jax.jit(lambda s, i, n: fed.run_rounds(step, s, i, n, 20)[0])
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
