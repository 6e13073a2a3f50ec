from fedjax_sim.reconstruction import *
