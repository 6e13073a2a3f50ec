"""Sign flipping: the honest update, turned round."""

from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, NonNegative, Traced, checked


@checked("attack")
def sign_flip(
    *,
    scale: Traced[NonNegative] = 1.0,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Sign flipping: each attacker sends -scale times its own honest update.

    Li, Xu, Chen, Giannakis, Ling, "RSA: Byzantine-Robust Stochastic Aggregation Methods
    for Distributed Learning from Heterogeneous Datasets", AAAI 2019, section 5.

    Args:
      scale: length of the flipped update, in lengths of the honest one.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def craft(state, view):
        return state, -scale * view.updates

    return Attack(
        knowledge=("own_updates",),
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


ENTRY = Entry(
    sign_flip,
    paper="Li et al. (RSA), AAAI 2019",
)
