"""Compilation takes most of the time of these tests: quick code serves them.

By the environment, so that the commands which tests start compile as this process does:
some tests compare the two bit by bit.
"""

import os

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # read when JAX is imported
