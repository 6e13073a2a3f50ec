"""The public names of the package."""

import subprocess
import sys
from pathlib import Path

import fedjax_sim


def test_every_public_name_is_there():
    for name in fedjax_sim.__all__:
        assert getattr(fedjax_sim, name) is not None
    assert set(fedjax_sim.__all__) == set(dir(fedjax_sim))
    assert fedjax_sim.__version__.count(".") == 2


def test_the_names_for_type_checkers_are_the_public_ones():
    source = Path(fedjax_sim.__file__).read_text()
    typed = {
        line.split(" as ")[1]
        for line in source.splitlines()
        if line.startswith("    from fedjax_sim.")
    }
    assert typed | {"__version__"} == set(fedjax_sim.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(fedjax_sim, "no_such_name")


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, fedjax_sim; print('jax' in sys.modules, fedjax_sim.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "fedjax_sim"]
