"""Bulyan: Krum again and again, then a mean around the median.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
Byzantium", ICML 2018, section 4.
"""

from typing import Literal

from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    coordinatewise,
    pipeline,
)
from fedjax_sim.defenses.multikrum import iterated_krum
from fedjax_sim.defenses.parts.building import byzantine_count, stateless, told
from fedjax_sim.defenses.parts.checks import check_choice, check_quorum, check_range
from fedjax_sim.numerics import order_statistics

Variant = Literal["paper", "ndss"]


def bulyan(*, variant: Variant = "paper", num_byzantine: int | None = None) -> Defense:
    """Returns Bulyan with theta = n - 2f selected and beta = theta - 2f averaged.

    Krum selects theta clients one after the other, each time among those that are
    left (score `place` i32 [n], from 0, or n). In each coordinate the beta selected
    values nearest to their median are averaged. n are the clients that count; where
    they are too few for f, at least one client and one value are taken.

    Args:
      variant: `ndss` as in the code of Shejwalkar and Houmansadr, NDSS 2021: a client
        counts among its own nearest ones, and of an even number of values the lower
        middle one is the median.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it). With f < 3 the last selections may tie
        exactly and go by client id.

    Raises:
      InputError: for an unknown variant; by `init`, for a cohort of fewer than 4f + 3
        clients.
    """
    check_choice("variant", variant, Variant)
    coded = variant == "ndss"

    def resolve(spec: FederationSpec) -> int:
        check_range("num_byzantine", num_byzantine, 0, spec.cohort_size)
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 4, 3)
        return f

    def rule(f: Array) -> Defense:
        def average(rows: Array, mask: Array) -> Array:
            count = mask.sum() - 2 * f
            even = "lower" if coded else "midpoint"
            return order_statistics.mean_around_median(rows, mask, count, even)

        def select(cohort: Cohort, context: RoundContext) -> Cohort:
            del context
            return iterated_krum(cohort, f, 2 * f, with_itself=coded)

        return pipeline(stateless(select), reduce=coordinatewise(average))

    return told(resolve, rule)
