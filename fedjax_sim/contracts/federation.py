"""What a federation is: its static facts, and the model that its rounds pass on.

Letters: `N` population, `n` cohort, `d` parameters, `b` buffer entries.
"""

from typing import NamedTuple

from jax import Array

from fedjax_sim.contracts.model import Network
from fedjax_sim.numerics.flat import FlatLayout


class FederationSpec(NamedTuple):
    """The static facts of a federation that rules may size their state by."""

    population: int  # N, fake clients included
    cohort_size: int  # n
    num_malicious: int  # M, the malicious clients of the population (threat model)
    layout: FlatLayout  # trainable parameters; layout.size is d
    num_buffers: int  # b
    network: Network  # what the parameters are parameters of
    key: Array | None = None  # PRNG key of this rule in this run

    @property
    def expected_malicious(self) -> int:
        """Malicious clients to expect in a cohort, rounded up: ceil(n M / N)."""
        return -(-self.cohort_size * self.num_malicious // self.population)


class GlobalModel(NamedTuple):
    """A global model in flat form."""

    params: Array  # f32 [d]
    buffers: Array  # f32 [b]
