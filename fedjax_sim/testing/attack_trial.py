"""A short federation of digits, in which an attack is tried.

Six clients of 33 digits of 28x28 pixels take part in three rounds; the last two are
malicious. The defence is FedAvg.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.attack import Answer, Attack, CraftView
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.defense import Defense, Stage
from fedjax_sim.data.digits import load_digits
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.experiment.build import Experiment, build
from fedjax_sim.experiment.config import resolve
from fedjax_sim.round.federation import run_rounds
from fedjax_sim.round.state import FedState, RoundReport
from fedjax_sim.testing.quick_jit import quick_jit

CLIENTS, ATTACKERS, ROUNDS = 6, 2, 3


class Rounds(NamedTuple):
    """A federation after none, one and all of its rounds."""

    built: Experiment
    start: FedState
    first: FedState
    last: FedState
    reports: RoundReport


class Trial:
    """An attack, and the federation that it is tried in.

    Attributes:
      attack: the attack.
      name: for messages.
    """

    def __init__(self, key: str, options: Mapping[str, Any], name: str | None = None):
        entry = ATTACKS.find(key)
        # The few samples of a client are all poisoned, unless the caller says else.
        poisoned = {"dpr": 1.0} if "dpr" in entry.options else {}
        self._key, self._options = key, {**poisoned, **options}
        self.name = name or key
        self.attack: Attack = entry.factory(**options)

    @cached_property
    def rounds(self) -> Rounds:
        """With one client after the other."""
        return self.run("map")

    def run(self, clients: str) -> Rounds:
        """Carries the federation out, with the clients stacked in some way."""
        built = self.build(clients)
        start = jax.device_put(built.init(built.inputs), jax.devices()[0])
        loop = quick_jit(
            lambda state, count: run_rounds(
                built.round_step, state, built.inputs, count, ROUNDS
            )
        )
        first, _ = loop(start, jnp.int32(1))
        last, reports = loop(start, jnp.int32(ROUNDS))
        return Rounds(built, start, first, last, reports)

    def build(self, clients: str) -> Experiment:
        """Returns the federation; nothing is compiled yet."""
        config = resolve(
            {
                "rounds": ROUNDS,
                "partition": {"name": "drop_iid", "num_clients": CLIENTS},
                "model": {"name": "mlp", "width": 8},
                "client": {"lr": 0.1, "batch_size": 16, "epochs": 1},
                "participation": {"name": "uniform", "clients_per_round": CLIENTS},
                "attack": {
                    "name": self._key,
                    "num_malicious": ATTACKERS,
                    "malicious_clients": "last",
                    **self._options,
                },
                "execution": {"memory_gib": "unlimited", "clients": clients},
            }
        )
        return build(config, framed_digits(), adapt=lambda defense: _remembering())

    @cached_property
    def craft(self) -> Callable[[Any, CraftView], tuple[Any, jax.Array]]:
        """The attack's craft, compiled."""
        craft, network = self.attack.craft, self.rounds.built.parts.network
        assert craft is not None
        # Its functions are static: no arguments of a jitted function.

        def run(state, view):
            # FedAvg, with all clients there.
            answer = lambda updates: Answer(updates.mean(0), jnp.ones(len(updates)))
            return craft(state, view._replace(network=network, answer=answer))

        return quick_jit(run)

    def view(self, malicious: np.ndarray) -> CraftView:
        """Returns a cohort with random updates, of which some clients attack."""
        return make_view(malicious, self.rounds.start.params.size)


@lru_cache(maxsize=1)
def honest() -> Trial:
    """The same federation without an attack."""
    return Trial("none", {})


@lru_cache(maxsize=1)
def framed_digits() -> Dataset:
    """Digits of 28x28 pixels: every trigger fits."""
    frame = lambda images: np.pad(images, ((0, 0), (10, 10), (10, 10), (0, 0)))
    data = load_digits()
    return data._replace(
        train_images=frame(data.train_images[:200]),
        train_labels=data.train_labels[:200],
        test_images=frame(data.test_images[:60]),
        test_labels=data.test_labels[:60],
    )


def _remembering() -> Defense:
    """FedAvg whose state is the updates of the last round, f32 [n, d]."""

    def init(spec):
        return jnp.zeros((spec.cohort_size, spec.layout.size))

    def apply(state, cohort, context):
        del state, context
        return cohort.updates, cohort

    return pipeline(Stage(init, apply))


def sent(state: FedState) -> np.ndarray:
    """f32 [n, d]: what the server received in the last round."""
    (updates,), _ = state.defense
    return np.asarray(updates)


def make_view(
    malicious: Sequence[bool] | np.ndarray,
    size: int = 20,
    *,
    seed: int = 0,
    round_index: int = 2,
) -> CraftView:
    """A cohort of clients 0, 1, ... with random updates f32 [n, size]."""
    rng = np.random.default_rng(seed)
    n = len(malicious)
    return CraftView(
        round=jnp.int32(round_index),
        key=jax.random.key(seed),
        global_params=jnp.asarray(rng.normal(size=size), jnp.float32),
        updates=jnp.asarray(rng.normal(size=(n, size)), jnp.float32),
        malicious=jnp.asarray(malicious, bool),
        present=jnp.ones(n, bool),
        client_ids=jnp.arange(n, dtype=jnp.int32),
        network=None,  # type: ignore[arg-type] # those that need one are given it
    )
