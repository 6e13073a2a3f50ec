"""The same number of malicious clients in every cohort."""

from typing import Literal

import jax
from jax import lax

from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.participation.parts.drawing import check_cohort, draw_groups

Rounding = Literal["exact", "stochastic"]


@checked("participation")
def enforced(
    *,
    population: int,
    cohort_size: int,
    num_malicious: int,
    rounding: Rounding = "exact",
) -> Participation:
    """Exactly n M / N malicious clients in every cohort (DROP: "enforced").

    Args:
      population, cohort_size, num_malicious: N, n, M.
      rounding: of an n M / N that is no integer: `exact` refuses it; `stochastic` takes
        one more with the probability of its fraction, so that the mean is n M / N (as
        PoisonedFL's code draws its fakes).

    Raises:
      InputError: n M / N is not an integer, or the cohort does not fit.
    """
    check_cohort(cohort_size, population)
    share, rest = divmod(cohort_size * num_malicious, population)
    if rest and rounding == "exact":
        raise InputError(
            f"config.participation.name = 'enforced' needs n*M/N to be an integer, but "
            f"{cohort_size}*{num_malicious}/{population} is not; allowed: "
            "config.participation.rounding = 'stochastic'"
        )

    def sample(key, round_index, malicious, eligible):
        del round_index
        groups = (malicious, eligible, share, cohort_size - share)
        if not rest:
            return draw_groups(key, *groups)
        coin_key, key = jax.random.split(key)
        # A cohort has one size: one more attacker is one benign client less.
        more = jax.random.bernoulli(coin_key, rest / population)
        larger = (malicious, eligible, share + 1, cohort_size - share - 1)
        return lax.cond(
            more, lambda: draw_groups(key, *larger), lambda: draw_groups(key, *groups)
        )

    return Participation(cohort_size, sample)


ENTRY = Entry(enforced, paper="released code of Syros et al. 2025 (DROP)")
