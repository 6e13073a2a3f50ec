"""Who takes part in a round.

A participation schedule is a pure function of the round: `sample(key, round,
malicious bool [N], eligible bool [N]) -> (ids i32 [n], present bool [n])`. Ids are
distinct and ascending, so that position in the cohort breaks ties by client id.
Where fewer clients are eligible than asked for, all of them take part and the
remaining places are not `present`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.core.errors import InputError


class Participation(NamedTuple):
    """A schedule of cohorts of `cohort_size` clients."""

    cohort_size: int
    sample: Callable[[Array, Array, Array, Array], tuple[Array, Array]]


def _draw(key: Array, candidates: Array, count: int) -> tuple[Array, Array]:
    """Draws `count` of the clients in bool [N] uniformly without replacement."""
    scores = jax.random.uniform(key, candidates.shape)
    best, ids = jax.lax.top_k(jnp.where(candidates, scores, -1.0), count)
    return ids, best >= 0


def _ascending(ids: Array, present: Array) -> tuple[Array, Array]:
    order = jnp.argsort(ids)
    return ids[order], present[order]


def uniform(*, population: int, cohort_size: int) -> Participation:
    """n of N clients uniformly without replacement (DROP: strategy "random").

    The number of malicious clients in a cohort is then hypergeometric and may exceed
    one half; see [DROP] section 2.2.

    Raises:
      InputError: the cohort is larger than the population or empty.
    """
    _check_cohort(cohort_size, population)

    def sample(key, round_index, malicious, eligible):
        del round_index, malicious
        return _ascending(*_draw(key, eligible, cohort_size))

    return Participation(cohort_size, sample)


def enforced(*, population: int, cohort_size: int, num_malicious: int) -> Participation:
    """Exactly n M / N malicious clients in every cohort (DROP: "enforced").

    Raises:
      InputError: n M / N is not an integer, or the cohort does not fit.
    """
    _check_cohort(cohort_size, population)
    share, rest = divmod(cohort_size * num_malicious, population)
    if rest:
        raise InputError(
            f"config.participation.name = 'enforced' needs n*M/N to be an integer, but "
            f"{cohort_size}*{num_malicious}/{population} is not"
        )

    def sample(key, round_index, malicious, eligible):
        del round_index
        return _draw_groups(key, malicious, eligible, share, cohort_size - share)

    return Participation(cohort_size, sample)


def periodic(
    *,
    population: int,
    cohort_size: int,
    num_malicious: int,
    period: int = 10,
    burst: int = 2,
    malicious_in_burst: int = 6,
) -> Participation:
    """Bursts: the first `burst` rounds of every `period` hold attackers, others none.

    The bursty adversary of the LeadFL report: rounds with (t mod 10) < 2, t from 0,
    take 6 malicious and 4 benign clients, all other rounds 10 benign ones.

    Raises:
      InputError: a group is larger than the population can fill.
    """
    _check_cohort(cohort_size, population)
    benign = population - num_malicious
    if not 0 <= burst <= period or period < 1:
        raise InputError(
            f"config.participation.burst = {burst} must lie between 0 and "
            f"config.participation.period = {period}"
        )
    most = min(cohort_size, num_malicious)
    if not 0 <= malicious_in_burst <= most:
        raise InputError(
            f"config.participation.malicious_in_burst = {malicious_in_burst} must lie "
            f"between 0 and min(cohort, malicious clients) = {most}"
        )
    if benign < cohort_size:
        raise InputError(
            f"config.participation.name = 'periodic' needs {cohort_size} benign "
            f"clients for its quiet rounds, the population has {benign}"
        )

    def sample(key, round_index, malicious, eligible):
        attacked = (round_index - 1) % period < burst
        quiet = _draw_groups(key, malicious, eligible, 0, cohort_size)
        loud = _draw_groups(
            key,
            malicious,
            eligible,
            malicious_in_burst,
            cohort_size - malicious_in_burst,
        )
        return jax.tree.map(lambda a, b: jnp.where(attacked, a, b), loud, quiet)

    return Participation(cohort_size, sample)


def explicit(*, population: int, schedule: np.ndarray) -> Participation:
    """Replays a schedule i32 [rounds, n] of client ids from 0, again and again.

    Raises:
      InputError: an id is out of range or stands twice in one round.
    """
    schedule = np.asarray(schedule)
    integers = np.issubdtype(schedule.dtype, np.integer)
    if schedule.ndim != 2 or not len(schedule) or not integers:
        raise InputError(
            "config.participation.schedule must be an integer array [rounds, clients], "
            f"got {schedule.dtype} {list(schedule.shape)}"
        )
    _check_cohort(schedule.shape[1], population)
    rows = np.sort(schedule, axis=1)
    if rows.min() < 0 or rows.max() >= population:
        raise InputError(
            f"config.participation.schedule holds client ids from {rows.min()} to "
            f"{rows.max()}, allowed: 0 to {population - 1}"
        )
    repeated = (np.diff(rows, axis=1) == 0).any(1)
    if repeated.any():
        first = int(repeated.argmax())
        raise InputError(
            f"config.participation.schedule names a client twice in round {first + 1}"
        )
    rows = jnp.asarray(rows, jnp.int32)

    def sample(key, round_index, malicious, eligible):
        del key, malicious
        ids = rows[(round_index - 1) % rows.shape[0]]
        return ids, eligible[ids]

    return Participation(rows.shape[1], sample)


def _draw_groups(key, malicious, eligible, num_malicious, num_benign):
    """Draws from each group without replacement."""
    benign_key, malicious_key = jax.random.split(key)
    benign = _draw(benign_key, eligible & ~malicious, num_benign)
    attackers = _draw(malicious_key, eligible & malicious, num_malicious)
    # The groups fill their empty places with ids that the other may have drawn.
    taken = jnp.zeros(eligible.shape, bool)
    for ids, present in (benign, attackers):
        taken = taken.at[ids].max(present)
    _, ids = jax.lax.top_k(taken.astype(jnp.float32), num_malicious + num_benign)
    return _ascending(ids, taken[ids])


def _check_cohort(cohort_size: int, population: int) -> None:
    if not 1 <= cohort_size <= population:
        raise InputError(
            f"config.participation.clients_per_round = {cohort_size} must lie between "
            f"1 and the population of {population} clients"
        )
