"""What was compiled once is read from the disk the next time, by JAX's own cache.

A program depends on the processor that it was compiled for, and the home folder of a
cluster is shared by machines of several kinds: each kind has a folder of its own.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax
from absl import logging

from fedjax_sim.core.paths import local_path

# Beyond it the programs that were not used for the longest time go.
_MOST_BYTES = 2 * 2**30


def keep_programs(setting: str) -> None:
    """Lets JAX keep what this process compiles from now on.

    What the user has set for JAX itself (`JAX_COMPILATION_CACHE_DIR`) stays. Where the
    folder cannot be written, nothing is kept, and a line says so.

    Args:
      setting: `config.execution.compilation_cache`: "auto", "off" or a folder.

    Raises:
      InputError: the folder is none of this machine.
    """
    if setting == "off" or jax.config.values["jax_compilation_cache_dir"]:
        return
    key = "config.execution.compilation_cache"
    root = _user_caches() if setting == "auto" else local_path(key, setting)
    try:
        # A user without a home has none to expand.
        folder = root.expanduser() / f"programs-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):
        writable = False
    if not writable:
        logging.warning("what is compiled cannot be kept in %s (%s)", root, key)
        return
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # Small programs too: a run has some dozens of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _user_caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedjax_sim"


def _processor() -> str:
    """A name for what the compiler knows of this machine's processor."""
    known = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    known += "".join(sorted({line for line in lines if line.startswith(kinds)}))
    return hashlib.sha256(known.encode()).hexdigest()[:12]
