"""Compilation takes most of the time of these tests: quick code serves them.

By the environment, so that the commands which tests start compile as this process does:
some tests compare the two bit by bit.
"""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

import pytest

# Both are read when JAX is imported.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if version("jaxlib").startswith("0.10."):
    # Half the time for a small program. Newer versions do not know the option, and one
    # that XLA does not know ends the process.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"

# What one process has compiled, no other compiles again: neither a test process beside
# this one nor a command that a test starts. The first of them removes the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(
        shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True
    )

# Tracing makes millions of objects that live on, and a collection looks at all of them.
gc.set_threshold(100_000, 50, 100)

# Fixtures that several folders share.
pytest_plugins = ["run_directories"]

REPEATED = {
    "commands",
    "reports",
    "runs",
    "sweeps",
}  # the same tiny runs, again and again


@pytest.fixture(autouse=True, scope="module")
def _keep_what_others_need(request):
    """To write a program that nobody asks for again costs time, too."""
    import jax  # not before the environment says how it compiles

    key = "jax_persistent_cache_min_compile_time_secs"
    usual = getattr(jax.config, key)
    if not REPEATED & set(request.path.parts):
        jax.config.update(key, 1e9)
    yield
    jax.config.update(key, usual)
