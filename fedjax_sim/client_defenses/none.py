"""No client-side defence."""

from fedjax_sim.contracts.client import ClientSide
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked


@checked("client_defense")
def none() -> ClientSide:
    """Benign clients run plain SGD."""
    return ClientSide()


ENTRY = Entry(none, paper="-")
