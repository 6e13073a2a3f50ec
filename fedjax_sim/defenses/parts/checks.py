"""Checks of the hyper-parameters of a defence, as one line for the user.

A sweep may trace the numbers; only concrete ones can be checked.
"""

from functools import partial
from typing import Any

from fedjax_sim.contracts.defense import FederationSpec
from fedjax_sim.core import errors
from fedjax_sim.core.errors import InputError

check_choice = partial(errors.check_choice, "defense")
check_range = partial(errors.check_range, "defense")


def check_quorum(spec: FederationSpec, num_byzantine: Any, factor: int, more: int):
    """Raises InputError unless the cohort has factor * f + more clients."""
    n = spec.cohort_size
    if isinstance(num_byzantine, int) and n < factor * num_byzantine + more:
        raise InputError(
            f"config.defense.num_byzantine = {num_byzantine} must be at most "
            f"{max((n - more) // factor, 0)} in a cohort of {n} clients: the rule "
            f"needs n >= {factor} f + {more}"
        )
