"""A schedule of the user's own, from a file."""

import numpy as np

from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import checked
from fedjax_sim.participation.parts.replayed import replayed


@checked("participation")
def explicit(*, population: int, cohort_size: int, schedule: str) -> Participation:
    """Replays the client ids of a file, again and again.

    Args:
      population, cohort_size: N, n.
      schedule: an .npy file with an integer array [rounds, n] of ids from 0.

    Raises:
      InputError: no such file, another array, an id out of range or twice in a round.
    """
    try:
        array = np.load(schedule, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"config.participation.schedule = {schedule!r}: an .npy file with an "
            f"integer array [rounds, clients] is expected there ({error})"
        ) from None
    if not isinstance(array, np.ndarray):  # an .npz holds several
        raise InputError(
            f"config.participation.schedule = {schedule!r} holds several arrays; an "
            ".npy file with one integer array [rounds, clients] is expected"
        )
    if array.size == 0:
        raise InputError(
            f"config.participation.schedule = {schedule!r} is empty; an integer array "
            "[rounds, clients] is expected"
        )
    if array.ndim == 2 and array.shape[1] != cohort_size:
        raise InputError(
            f"config.participation.clients_per_round = {cohort_size} must be "
            f"{array.shape[1]}: config.participation.schedule = {schedule!r} has so "
            "many columns"
        )
    return replayed(population=population, schedule=array)


ENTRY = Entry(explicit, paper="-")
