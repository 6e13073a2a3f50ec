"""The schedules of who takes part, by name: one file each (see `contracts.entry`).

A factory takes, of the facts `population`, `cohort_size`, `num_malicious` and `rounds`,
those it asks for; its other arguments are the options of the config.
"""

from fedjax_sim.contracts.entry import Registry

PARTICIPATIONS = Registry(__name__, "participation")
FACTS = ("population", "cohort_size", "num_malicious", "rounds")
