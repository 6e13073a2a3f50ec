"""A schedule that is known before the run."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.participation.parts.drawing import check_cohort


def replayed(*, population: int, schedule: np.ndarray) -> Participation:
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
    check_cohort(schedule.shape[1], population)
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
    cohorts = jnp.asarray(rows, jnp.int32)

    def sample(key, round_index, malicious, eligible):
        del key, malicious
        ids = cohorts[(round_index - 1) % cohorts.shape[0]]
        return ids, eligible[ids]

    return Participation(rows.shape[1], sample)
