"""Bursts of attackers with pauses between them."""

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Natural, checked
from fedjax_sim.participation.parts.drawing import check_cohort, draw_groups


@checked("participation")
def periodic(
    *,
    population: int,
    cohort_size: int,
    num_malicious: int,
    period: Count = 10,
    burst: Natural = 2,
    malicious_in_burst: Natural = 6,
) -> Participation:
    """Bursts: the first `burst` rounds of every `period` hold attackers, others none.

    The bursty adversary of the LeadFL report: rounds with (t mod 10) < 2, t from 0,
    take 6 malicious and 4 benign clients, all other rounds 10 benign ones.

    Args:
      population, cohort_size, num_malicious: N, n, M.
      period: rounds from the beginning of a burst to that of the next.
      burst: rounds of a burst, at most `period`.
      malicious_in_burst: malicious clients in each of them.

    Raises:
      InputError: an option outside its range, a burst that is longer than the period, a
        group larger than the population can fill.
    """
    check_cohort(cohort_size, population)
    benign = population - num_malicious
    if burst > period:
        raise InputError(
            f"config.participation.burst = {burst} must be at most "
            f"config.participation.period = {period}"
        )
    most = min(cohort_size, num_malicious)
    if malicious_in_burst > most:
        raise InputError(
            f"config.participation.malicious_in_burst = {malicious_in_burst} must be "
            f"at most min(cohort, malicious clients) = {most}"
        )
    if benign < cohort_size:
        raise InputError(
            f"config.participation.name = 'periodic' needs {cohort_size} benign "
            f"clients for its quiet rounds, the population has {benign}"
        )

    def sample(key, round_index, malicious, eligible):
        attacked = (round_index - 1) % period < burst
        quiet = draw_groups(key, malicious, eligible, 0, cohort_size)
        loud = draw_groups(
            key,
            malicious,
            eligible,
            malicious_in_burst,
            cohort_size - malicious_in_burst,
        )
        return jax.tree.map(lambda a, b: jnp.where(attacked, a, b), loud, quiet)

    return Participation(cohort_size, sample)


ENTRY = Entry(periodic, paper="Guthmann, Tan 2026 (report on LeadFL), bursts")
