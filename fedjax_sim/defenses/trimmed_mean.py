"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates", ICML 2018, Definition 2 and Algorithm 1 (option II).
"""

from functools import partial
from typing import Literal

from jax import Array

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.building import with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, count_of_authors
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.reductions import coordinatewise
from fedjax_sim.numerics import order_statistics

Variant = Literal["paper", "authors"]


@checked("defense")
def trimmed_mean(
    *, variant: Variant = "paper", num_byzantine: Traced[Natural] | None = None
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
      InputError: an option outside its range; by `init`, a num_byzantine larger than
        the cohort.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        count = count_of_authors if variant == "authors" else byzantine_count
        return count(spec, num_byzantine)

    def rule(f: Array) -> Defense:
        trim = partial(order_statistics.trimmed_mean, trim=f)
        return pipeline(reduce=coordinatewise(trim))

    return with_count(resolve, rule)


ENTRY = Entry(
    trimmed_mean,
    paper="Yin et al., ICML 2018",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
