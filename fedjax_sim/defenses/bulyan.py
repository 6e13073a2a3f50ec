"""Bulyan: Krum again and again, then a mean around the median.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
Byzantium", ICML 2018, section 4.
"""

from typing import Literal

from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.krum import iterated_krum
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.reductions import coordinatewise
from fedjax_sim.numerics import order_statistics

Variant = Literal["paper", "ndss"]


@checked("defense")
def bulyan(
    *, variant: Variant = "paper", num_byzantine: Traced[Natural] | None = None
) -> Defense:
    """Returns Bulyan with theta = n - 2f selected and beta = theta - 2f averaged.

    Krum selects theta clients one after the other, each time among those that are
    left (score `place` i32 [n], from 0, or n). In each coordinate the beta selected
    values nearest to their median are averaged. n are the clients that count; where
    they are too few for f, at least one client and one value are taken.

    Args:
      variant: `paper` as above; `ndss` as in the code of Shejwalkar and Houmansadr,
        NDSS 2021: a client counts among its own nearest ones, and of an even number of
        values the lower middle one is the median.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it). With f < 3 the last selections may tie
        exactly and go by client id.

    Raises:
      InputError: an option outside its range; by `init`, a cohort of fewer than 4f + 3
        clients.
    """
    coded = variant == "ndss"

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 4, 3)
        return f

    def rule(f: Array) -> Defense:
        def average(rows: Array, mask: Array) -> Array:
            count = mask.sum() - 2 * f
            even: order_statistics.Even = "lower" if coded else "midpoint"
            return order_statistics.mean_around_median(rows, mask, count, even)

        def select(cohort: Cohort, context: RoundContext) -> Cohort:
            del context
            return iterated_krum(cohort, f, 2 * f, with_itself=coded)

        return pipeline(stateless(select), reduce=coordinatewise(average))

    return with_count(resolve, rule)


ENTRY = Entry(
    bulyan,
    paper="El Mhamdi et al., ICML 2018",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
