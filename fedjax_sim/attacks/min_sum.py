"""Min-Sum: no farther from all updates together than a benign update is."""

import jax.numpy as jnp

from fedjax_sim.attacks.min_max import Perturbation, agr_agnostic
from fedjax_sim.attacks.parts.known_updates import Known
from fedjax_sim.contracts.attack import Attack


def min_sum(
    *,
    perturbation: Perturbation = "std",
    knowledge: Known = "compromised",
    initial_scale: float = 30.0,
    tolerance: float = 1e-5,
    start_round: int = 1,
    end_round: int | None = None,
) -> Attack:
    """Min-Sum: the sum of squared distances is at most that of the closest update.

    Shejwalkar, Houmansadr, NDSS 2021, eq. 9 (the reference code bounds by the smallest
    sum, as here; the equation by the largest). Arguments and errors: see
    `min_max.agr_agnostic`.
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
