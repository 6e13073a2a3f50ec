"""The Gaussian attack: noise in place of an update."""

import jax

from fedjax_sim.attacks.parts.known_updates import draw_rows
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, NonNegative, Traced, checked


@checked("attack")
def gaussian(
    *,
    std: Traced[NonNegative] = 200.0,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Gaussian attack: each attacker sends its own draw from N(0, std^2 I).

    Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, section 6, with std 200.
    It needs neither data nor training.

    Args:
      std: standard deviation of every coordinate of the update.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def craft(state, view):
        shape = view.global_params.shape
        return state, draw_rows(view, lambda key: std * jax.random.normal(key, shape))

    return Attack(
        knowledge=(),
        active=active_rounds(start_round, end_round),
        craft=craft,
        trains=False,
    )


ENTRY = Entry(
    gaussian,
    paper="Blanchard et al., NeurIPS 2017",
)
