"""FedAvg: the mean of the local models, no defence.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, AISTATS 2017.
"""

from fedjax_sim.contracts.defense import Defense, pipeline


def fedavg() -> Defense:
    """Returns the undefended server: the mean by the clients' weights."""
    return pipeline()
