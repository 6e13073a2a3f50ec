"""Many runs as one program: what to run (`sweep`), and how (`executors`)."""

from fedjax_sim.sweeps.sweep import Sweep as Sweep
from fedjax_sim.sweeps.sweep import product as product
from fedjax_sim.sweeps.sweep import seeds as seeds
from fedjax_sim.sweeps.sweep import zipped as zipped
