"""The client-side defences, by name: what benign clients change in their training.

One file each (see `contracts.entry`). They work with every server rule and attack.
"""

from fedjax_sim.contracts.entry import Registry

CLIENT_DEFENSES = Registry(__name__, "client_defense")
