"""Which folders are packages; everything else stands in setup.cfg.

`configs/` and `benchmarks/` are installed inside of the package: one copy, at the top
of the checkout, where a reader looks for it.
"""

from setuptools import find_packages, setup

INSIDE = {"fedjax_sim.configs": "configs", "fedjax_sim.benchmarks": "benchmarks"}

setup(
    packages=[*find_packages(include=["fedjax_sim*"]), *INSIDE],
    package_dir=INSIDE,
)
