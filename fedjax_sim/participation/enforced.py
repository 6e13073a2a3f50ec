"""The same number of malicious clients in every cohort."""

from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.participation.parts.drawing import check_cohort, draw_groups


@checked("participation")
def enforced(*, population: int, cohort_size: int, num_malicious: int) -> Participation:
    """Exactly n M / N malicious clients in every cohort (DROP: "enforced").

    Raises:
      InputError: n M / N is not an integer, or the cohort does not fit.
    """
    check_cohort(cohort_size, population)
    share, rest = divmod(cohort_size * num_malicious, population)
    if rest:
        raise InputError(
            f"config.participation.name = 'enforced' needs n*M/N to be an integer, but "
            f"{cohort_size}*{num_malicious}/{population} is not"
        )

    def sample(key, round_index, malicious, eligible):
        del round_index
        return draw_groups(key, malicious, eligible, share, cohort_size - share)

    return Participation(cohort_size, sample)


ENTRY = Entry(enforced, paper="released code of Syros et al. 2025 (DROP)")
