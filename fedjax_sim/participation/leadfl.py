"""The client schedules of LeadFL's experiments, as its code draws them.

Zhu, Roos, Chen 2023, public code; Guthmann and Tan 2026 (report) for the bursts. In
round t (from 0) NumPy's legacy generator is seeded with t + offset, so every run of a
setting sees the same clients. Offsets 100, 200 and 300 are the three repetitions.
"""

from typing import Literal

import numpy as np

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.participation import Participation
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Natural, Seed, checked
from fedjax_sim.participation.parts.malicious_clients import published_clients
from fedjax_sim.participation.parts.replayed import replayed

Mode = Literal["random", "bursty", "periodic", "consistent", "random_clients"]
FORCED_ROUNDS = (0, 10, 12)
PERIOD = 10
RANDOM_COUNTS = (0, 0, 2, 2, 5)  # of malicious clients in a round
# Rounds of a burst, malicious clients in each.
_BURSTS: dict[Mode, tuple[int, int]] = {
    "random": (0, 0),
    "bursty": (2, 6),
    "periodic": (5, 2),
    "consistent": (PERIOD, 2),
    "random_clients": (PERIOD, max(RANDOM_COUNTS)),
}


def leadfl_schedule(
    *,
    population: int,
    cohort_size: int,
    num_malicious: int,
    rounds: int,
    mode: Mode,
    offset: int,
    forced: bool,
    malicious_in_burst: int | None,
) -> np.ndarray:
    """Returns the schedule int64 [rounds, n], ids from 0; benign clients come first.

    Args and errors: see `leadfl`.
    """
    malicious = published_clients(population, num_malicious)
    benign = np.setdiff1d(np.arange(population), malicious)
    burst, usual = _BURSTS[mode]
    if mode == "random_clients" and malicious_in_burst is not None:
        raise InputError(
            f"config.participation.malicious_in_burst = {malicious_in_burst} must be "
            "none with config.participation.mode = 'random_clients': it draws them"
        )
    inside = usual if malicious_in_burst is None else malicious_in_burst
    half = cohort_size // 2
    enough = population if mode == "random" else len(benign)
    if forced:  # half of either kind
        enough = min(enough, 2 * len(benign), 2 * len(malicious) + 1)
    for name, wanted, available in (
        ("malicious_in_burst", inside, min(len(malicious), cohort_size)),
        ("clients_per_round", cohort_size, enough),
    ):
        if not 0 <= wanted <= available:
            raise InputError(
                f"config.participation.{name} = {wanted} must lie between 0 and "
                f"{available}, the clients there are for it"
            )
    if offset > 2**32 - rounds:
        raise InputError(
            f"config.participation.offset = {offset} must be at most "
            f"{2**32 - rounds}: it is added to the round to give a seed"
        )

    def groups(generator: np.random.RandomState, attackers: int) -> np.ndarray:
        first = generator.choice(benign, cohort_size - attackers, replace=False)
        return np.concatenate(
            [first, generator.choice(malicious, attackers, replace=False)]
        )

    def draw(t: int) -> np.ndarray:
        generator = np.random.RandomState(t + offset)
        if mode == "random":
            clients = generator.choice(population, cohort_size, replace=False)
        elif mode == "random_clients":
            clients = groups(generator, generator.choice(RANDOM_COUNTS))
        else:
            clients = groups(generator, inside if t % PERIOD < burst else 0)
        if forced and t in FORCED_ROUNDS:  # drawn anew, behind the first draw
            clients = groups(generator, half)
        return clients

    return np.stack([draw(t) for t in range(rounds)])


@checked("participation")
def leadfl(
    *,
    population: int,
    cohort_size: int,
    num_malicious: int,
    rounds: int,
    mode: Mode = "random",
    offset: Seed = 100,
    forced: bool = False,
    malicious_in_burst: Natural | None = None,
) -> Participation:
    """The published schedule.

    Args:
      population, cohort_size, num_malicious: N, n, M.
      rounds: how many.
      mode: `random` draws from all clients; `bursty` (report) takes 6 malicious clients
        in the first two rounds of every ten and none in the others; `periodic` (code
        as shipped) 2 in the first five; `consistent` 2 in every round;
        `random_clients` 0, 2 or 5, of (0, 0, 2, 2, 5) one at random.
      offset: added to the round, from 0, to give its seed.
      forced: rounds 0, 10 and 12 take half malicious clients (hard-wired in the code;
        always so with `periodic` there).
      malicious_in_burst: malicious clients in a round of a burst, in place of 6 and 2;
        not with `random_clients`.

    Raises:
      InputError: an option outside its range, a group that is larger than there are
        clients, or no seed.
    """
    schedule = leadfl_schedule(
        population=population,
        cohort_size=cohort_size,
        num_malicious=num_malicious,
        rounds=rounds,
        mode=mode,
        offset=offset,
        forced=forced,
        malicious_in_burst=malicious_in_burst,
    )
    return replayed(population=population, schedule=schedule)


def needs_published_clients(config: Config) -> None:
    """Refuses other malicious clients than those of the published schedule."""
    if config.attack.malicious_clients != "leadfl" or config.attack.num_fake:
        raise InputError(
            "config.participation.name = 'leadfl' is a schedule of published clients: "
            "it needs config.attack.malicious_clients = 'leadfl' and "
            "config.attack.num_fake = 0"
        )


ENTRY = Entry(
    leadfl,
    paper="Zhu, Roos, Chen, ICML 2023, public code",
    check=needs_published_clients,
)
