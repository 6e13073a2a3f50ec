"""Min-Sum: no farther from all updates together than a benign update is."""

import jax.numpy as jnp

from fedjax_sim.attacks.min_max import Perturbation, agr_agnostic
from fedjax_sim.attacks.parts.known_updates import Known
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Positive, checked


@checked("attack")
def min_sum(
    *,
    perturbation: Perturbation = "std",
    knowledge: Known = "compromised",
    initial_scale: Positive = 30.0,
    tolerance: Positive = 1e-5,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Min-Sum: the sum of squared distances is at most that of the closest update.

    Shejwalkar, Houmansadr, NDSS 2021, eq. 9 (the reference code bounds by the smallest
    sum, as here; the equation by the largest). Otherwise as `min_max`.

    Args:
      perturbation: p, the standard deviation of a sample, the mean scaled to length 1
        (0 if the mean is 0), or the sign of the mean.
      knowledge: the updates of the compromised clients (code of FedREDefense), or those
        of all benign clients (updates-known threat model of the paper).
      initial_scale: first gamma; the search covers [0, 2 initial_scale).
      tolerance: of gamma, at which the search ends.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """
    return agr_agnostic(
        bound=lambda pairwise, rows: jnp.where(rows, pairwise.sum(1), jnp.inf).min(),
        spread=lambda to_crafted: to_crafted.sum(),
        perturbation=perturbation,
        knowledge=knowledge,
        initial_scale=initial_scale,
        tolerance=tolerance,
        start_round=start_round,
        end_round=end_round,
    )


ENTRY = Entry(
    min_sum,
    paper="Shejwalkar, Houmansadr, NDSS 2021",
)
