"""f, the number of Byzantine clients that a rule is told to expect."""

import math
from typing import Any

from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import InputError


def byzantine_count(spec: FederationSpec, num_byzantine: int | None) -> int:
    """Returns f: as given, or the malicious clients to expect in a cohort."""
    return spec.expected_malicious if num_byzantine is None else num_byzantine


def count_of_authors(spec: FederationSpec, num_byzantine: int | None) -> int:
    """Returns f = ceil(r n) + 1 of FedREDefense's code, r the malicious share.

    The product is rounded as floats are: 0.28 * 100 is a little more than 28, so that
    f = 30 in the published tables. An explicit `num_byzantine` replaces ceil(r n).
    """
    if num_byzantine is None:
        share = spec.num_malicious / spec.population
        num_byzantine = math.ceil(share * spec.cohort_size)
    return num_byzantine + 1


def check_quorum(spec: FederationSpec, num_byzantine: Any, factor: int, more: int):
    """Raises InputError unless the cohort has factor * f + more clients."""
    n = spec.cohort_size
    if isinstance(num_byzantine, int) and n < factor * num_byzantine + more:
        raise InputError(
            f"config.defense.num_byzantine = {num_byzantine} must be at most "
            f"{max((n - more) // factor, 0)} in a cohort of {n} clients: the rule "
            f"needs n >= {factor} f + {more}"
        )
