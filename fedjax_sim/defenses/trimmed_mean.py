"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates", ICML 2018, Definition 2 and Algorithm 1 (option II).
"""

from functools import partial
from typing import Literal

from jax import Array

from fedjax_sim.contracts.defense import (
    Defense,
    FederationSpec,
    coordinatewise,
    pipeline,
)
from fedjax_sim.defenses.krum import count_of_authors
from fedjax_sim.defenses.parts.building import byzantine_count, told
from fedjax_sim.defenses.parts.checks import check_choice, check_range
from fedjax_sim.numerics import order_statistics

Variant = Literal["paper", "authors"]


def trimmed_mean(
    *, variant: Variant = "paper", num_byzantine: int | None = None
) -> Defense:
    """Returns the mean without the f smallest and f largest values of a coordinate.

    Where 2f clients are not fewer than those that count, f is lowered so that one or
    two values are left.

    Args:
      variant: `paper` trims f values per side; `authors` one more, as the released
        code of FedREDefense does (Xie, Fang, Gong, ICML 2024).
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).

    Raises:
      InputError: for an unknown variant; by `init`, for a num_byzantine outside the
        cohort.
    """
    check_choice("variant", variant, Variant)

    def resolve(spec: FederationSpec) -> int:
        check_range("num_byzantine", num_byzantine, 0, spec.cohort_size)
        count = count_of_authors if variant == "authors" else byzantine_count
        return count(spec, num_byzantine)

    def rule(f: Array) -> Defense:
        trim = partial(order_statistics.trimmed_mean, trim=f)
        return pipeline(reduce=coordinatewise(trim))

    return told(resolve, rule)
