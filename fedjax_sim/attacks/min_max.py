"""Min-Max: as far from the mean as two benign updates are from each other."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.known_updates import Known
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Positive, checked
from fedjax_sim.numerics.columns import masked_mean, masked_std
from fedjax_sim.numerics.distances import squared_distances

Perturbation = Literal["std", "unit_vec", "sign"]

# Where no scale is accepted, the search ends here.
_SMALLEST = 1e-30


@checked("attack")
def min_max(
    *,
    perturbation: Perturbation = "std",
    knowledge: Known = "compromised",
    initial_scale: Positive = 30.0,
    tolerance: Positive = 1e-5,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Min-Max: the largest distance to a known update is at most that between two.

    Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning
    Attacks and Defenses for Federated Learning", NDSS 2021, eq. 8. All attackers send
    mean - gamma p with the largest gamma that a halving search finds.

    Args:
      perturbation: p, the standard deviation of a sample, the mean scaled to length 1
        (0 if the mean is 0), or the sign of the mean.
      knowledge: the updates of the compromised clients (code of FedREDefense), or those
        of all benign clients (updates-known threat model of the paper).
      initial_scale: first gamma; the search covers [0, 2 initial_scale). The authors'
        code starts at 10, that of FedREDefense at 30.
      tolerance: of gamma, at which the search ends; relative to a gamma below 1.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """
    return agr_agnostic(
        bound=lambda pairwise, rows: pairwise.max(),
        spread=lambda to_crafted: to_crafted.max(),
        perturbation=perturbation,
        knowledge=knowledge,
        initial_scale=initial_scale,
        tolerance=tolerance,
        start_round=start_round,
        end_round=end_round,
    )


def agr_agnostic(
    *,
    bound: Callable[[Array, Array], Array],
    spread: Callable[[Array], Array],
    perturbation: Perturbation,
    knowledge: Known,
    initial_scale: float,
    tolerance: float,
    start_round: int,
    end_round: int | None,
) -> Attack:
    """An attack of Shejwalkar and Houmansadr that does not know the rule.

    A gamma is accepted if `spread` of the squared distances from the crafted vector to
    the known updates does not exceed `bound` of those between them. With fewer than two
    known updates the attackers send zeros.

    Args:
      bound: `(squared distances f32 [n, n], rows bool [n]) -> f32 []`; distances of
        rows that are not known are 0.
      spread: `(squared distances f32 [n]) -> f32 []`, 0 for rows that are not known.
      perturbation, knowledge, initial_scale, tolerance: see `min_max`.
      start_round, end_round: see `min_max`.
    """

    def craft(state, view):
        rows = known_updates.known_rows(view, knowledge)
        center = masked_mean(view.updates, rows)
        direction = _direction(perturbation, center, view.updates, rows)
        # Around the mean, where close updates keep their digits.
        offsets = known_updates.centered(view.updates, rows)
        pairs = rows[:, None] & rows[None, :]
        limit = bound(jnp.where(pairs, squared_distances(offsets), 0.0), rows)
        norms, along = jnp.square(offsets).sum(1), (offsets * direction[None]).sum(1)
        length = jnp.square(direction).sum()

        def accepts(scale):
            squared = norms + 2 * scale * along + scale**2 * length
            return spread(jnp.where(rows, squared, 0.0)) <= limit

        crafted = center - largest_scale(accepts, initial_scale, tolerance) * direction
        crafted = jnp.where(rows.sum() > 1, crafted, 0.0)
        return state, known_updates.sent_by_all(crafted, view)

    return Attack(
        knowledge=known_updates.declared(knowledge),
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


def largest_scale(
    accepts: Callable[[Array], Array], initial: Array | float, tolerance: Array | float
) -> Array:
    """Returns the largest scale that the authors' halving search accepts, f32 [].

    It starts at `initial` and moves up by half the step after a success, down after a
    failure; the step halves each time, until it is below the tolerance. (Theirs is
    absolute: a scale that is smaller than it, such as that of a sign in a million
    dimensions, would be taken for 0. Here it is relative to a scale below 1.)
    """

    def test(search):
        scale, step, best = search
        accepted = accepts(scale)
        best = jnp.where(accepted, scale, best)
        scale = jnp.where(accepted, scale + step / 2, scale - step / 2)
        return scale, step / 2, best

    def goes_on(search):
        _, step, best = search
        return step > jnp.maximum(tolerance * jnp.minimum(best, 1.0), _SMALLEST)

    start = jnp.float32(initial)
    return lax.while_loop(goes_on, test, (start, start, jnp.float32(0)))[2]


def _direction(
    perturbation: Perturbation, mean: Array, updates: Array, rows: Array
) -> Array:
    if perturbation == "std":
        return masked_std(updates, rows, ddof=1)
    if perturbation == "sign":
        return jnp.sign(mean)
    length = jnp.linalg.norm(mean)
    return mean / jnp.where(length > 0, length, 1.0)


ENTRY = Entry(
    min_max,
    paper="Shejwalkar, Houmansadr, NDSS 2021",
)
