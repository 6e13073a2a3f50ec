"""Compilation takes most of the time of these tests: quick code serves them."""

import jax

jax.config.update("jax_disable_most_optimizations", True)
