"""What may stand in front of any server rule, by name: `config.defense.before`.

One file each. A factory takes keyword options and returns a `contracts.defense.Stage`;
its options are keys of the section `defense` that begin with its name.
"""

from fedjax_sim.contracts.entry import Registry

STAGES = Registry(__name__, "defense")
