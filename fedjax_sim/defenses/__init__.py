"""The defences, by name: what a server does with the updates of a round.

One file each, or a folder (see `contracts.entry`); `parts/` holds what they share.
"""

from fedjax_sim.contracts.entry import Registry

DEFENSES = Registry(__name__, "defense")
