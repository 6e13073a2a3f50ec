"""A tiny sweep and what comes out of it."""

import pytest
from sweep_helpers import LONG, SWEEP

from fedjax_sim.commands import sweep as cli


@pytest.fixture(scope="package")
def sweep_file(tmp_path_factory):
    """The tiny sweep."""
    path = tmp_path_factory.mktemp("sweep") / "tiny.py"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="package")
def finished(sweep_file, tmp_path_factory):
    """The results of a sweep that nobody disturbed, run by run in one process."""
    root = tmp_path_factory.mktemp("finished")
    arguments = [f"--sweep={sweep_file}", f"--results={root}", *LONG]
    assert cli.main(["sweep.py", *arguments]) == 0
    return root
