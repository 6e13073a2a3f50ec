"""FedAvg: the mean of the local models, no defence.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017.
"""

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.parts.pipeline import pipeline


@checked("defense")
def fedavg() -> Defense:
    """Returns the undefended server: the mean by the clients' weights."""
    return pipeline()


ENTRY = Entry(
    fedavg,
    paper="McMahan et al., AISTATS 2017",
    weighs=True,
)
