"""The clients of a run: what they hold, who of them attacks, who takes part."""

import inspect
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset, Partition
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.rng import Purpose, stream
from fedjax_sim.data.partition import PARTITIONS, with_fake_clients
from fedjax_sim.participation import PARTICIPATIONS
from fedjax_sim.participation.parts.malicious_clients import MALICIOUS_CLIENTS
from fedjax_sim.participation.parts.malicious_majority import majority_probability


class Clients(NamedTuple):
    """All N clients; the fake ones come last, hold nothing and are malicious."""

    partition: Partition
    malicious_ids: np.ndarray  # i64 [M], ascending
    num_fake: int = 0

    @property
    def genuine(self) -> Partition:
        """The partition without the fake clients."""
        count = self.population - self.num_fake
        return Partition(*(own[:count] for own in self.partition))

    @property
    def population(self) -> int:
        """N, fake clients included."""
        return len(self.partition.counts)

    @property
    def is_malicious(self) -> np.ndarray:
        """bool [N]."""
        mask = np.zeros(self.population, bool)
        mask[self.malicious_ids] = True
        return mask


def make_clients(config: Config, dataset: Dataset, key: Array) -> Clients:
    """Divides the training data and chooses who is malicious, fixed for the run.

    Args:
      config: of the run.
      dataset: of the run.
      key: root key of the run.

    Raises:
      InputError: the data cannot be divided so.
    """
    section, genuine = config.partition, config.partition.num_clients
    factory = PARTITIONS.find(section.name).factory
    facts: dict[str, Any] = {}
    if "groups" in inspect.signature(factory).parameters:
        facts["groups"] = dataset.train_groups
    try:
        partition = factory(
            dataset.train_labels,
            num_clients=genuine,
            seed=config.seed if section.seed is None else section.seed,
            **facts,
            **section.options,
        )
    except InputError as error:
        raise InputError(f"config.partition.name = {section.name!r}: {error}") from None
    _check_kind("partition", section.name, partition, Partition)
    if len(partition.counts) != genuine:
        raise InputError(
            f"config.partition.name = {section.name!r} divides the data over "
            f"{len(partition.counts)} clients; config.partition.num_clients = {genuine}"
        )
    chosen = MALICIOUS_CLIENTS[config.attack.malicious_clients](
        genuine, config.attack.num_malicious, stream(key, Purpose.MALICIOUS_SET)
    )
    fake = config.attack.num_fake
    return Clients(
        with_fake_clients(partition, fake),
        np.concatenate([chosen, np.arange(genuine, genuine + fake)]),
        fake,
    )


def make_participation(config: Config, clients: Clients) -> Participation:
    """Returns the schedule of cohorts.

    Raises:
      InputError: the schedule cannot be kept with so many clients.
    """
    section = config.participation
    factory = PARTICIPATIONS.find(section.name).factory
    facts: dict[str, Any] = {
        "population": clients.population,
        "cohort_size": section.clients_per_round,
        "num_malicious": len(clients.malicious_ids),
        "rounds": config.rounds,
    }
    asked = inspect.signature(factory).parameters
    facts = {key: value for key, value in facts.items() if key in asked}
    schedule = factory(**facts, **section.options)
    _check_kind("participation", section.name, schedule, Participation)
    return schedule


def _check_kind(section: str, name: str, made: object, kind: type) -> None:
    if not isinstance(made, kind):
        raise InputError(
            f"config.{section}.name = {name!r} makes a {type(made).__name__}; "
            f"{kind.__name__} is needed"
        )


def malicious_majority(participation: Participation, clients: Clients) -> float | None:
    """The probability that a round's cohort holds a malicious majority."""
    if not participation.uniform:
        return None
    return majority_probability(
        clients.population, len(clients.malicious_ids), participation.cohort_size
    )
