"""The attacks, by name: one file each (see `contracts.entry`)."""

from fedjax_sim.contracts.entry import Registry

ATTACKS = Registry(__name__, "attack")
