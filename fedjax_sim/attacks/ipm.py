"""Inner product manipulation: a step against the mean of the benign updates."""

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.known_updates import Known
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Traced, checked
from fedjax_sim.numerics.columns import masked_mean


@checked("attack")
def ipm(
    *,
    epsilon: Traced[float] = 0.5,
    knowledge: Known = "benign",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Inner product manipulation: every attacker sends -epsilon mean(updates).

    Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
    Product Manipulation", UAI 2019, section 4. A small epsilon hides from rules based
    on distances, a large one reverses the mean.

    Args:
      epsilon: length of the step, in lengths of the mean.
      knowledge: the updates whose mean is reversed: those of all benign clients (the
        paper), or the honest ones of the compromised clients.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def craft(state, view):
        rows = known_updates.known_rows(view, knowledge)
        crafted = -epsilon * masked_mean(view.updates, rows)
        return state, known_updates.sent_by_all(crafted, view)

    return Attack(
        knowledge=known_updates.declared(knowledge),
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


ENTRY = Entry(
    ipm,
    paper="Xie, Koyejo, Gupta, UAI 2019",
)
