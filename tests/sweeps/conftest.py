"""Runs of this process are compared with those of others: the same code for both."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def usual_compilation() -> Iterator[None]:
    """Takes back what `tests/conftest.py` does, which a started command does not."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
