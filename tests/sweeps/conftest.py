"""Runs of this process are compared with those of others: the same code for both."""

from collections.abc import Iterator

import jax
import pytest
from sweep_helpers import LONG, SWEEP

from fedjax_sim.sweeps import cli


@pytest.fixture(autouse=True, scope="package")
def usual_compilation() -> Iterator[None]:
    """Takes back what `tests/conftest.py` does, which a started command does not."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="package")
def sweep_file(tmp_path_factory):
    """The tiny sweep."""
    path = tmp_path_factory.mktemp("sweep") / "tiny.py"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="package")
def finished(usual_compilation, sweep_file, tmp_path_factory):
    """The results of a sweep that nobody disturbed, run by run in one process."""
    root = tmp_path_factory.mktemp("finished")
    arguments = [f"--sweep={sweep_file}", f"--results={root}", *LONG]
    assert cli.main(["sweep.py", *arguments]) == 0
    return root
