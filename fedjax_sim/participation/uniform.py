"""A cohort drawn uniformly from all clients."""

from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.options import checked
from fedjax_sim.participation.parts.drawing import ascending, check_cohort, draw


@checked("participation")
def uniform(*, population: int, cohort_size: int) -> Participation:
    """n of N clients uniformly without replacement (DROP: strategy "random").

    The number of malicious clients in a cohort is then hypergeometric and may exceed
    one half: Syros et al. 2025 (DROP), section 4.2, and `parts.malicious_majority`.

    Raises:
      InputError: the cohort is larger than the population or empty.
    """
    check_cohort(cohort_size, population)

    def sample(key, round_index, malicious, eligible):
        del round_index, malicious
        return ascending(*draw(key, eligible, cohort_size))

    return Participation(cohort_size, sample, uniform=True)


ENTRY = Entry(uniform, paper="McMahan et al., AISTATS 2017, Algorithm 1")
