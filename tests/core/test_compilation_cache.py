"""Compiled programs on the disk."""

import logging
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BASE
from jax.experimental.compilation_cache import compilation_cache

from fedjax_sim.core.compilation_cache import keep_programs
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.runs import loop

KEYS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process in which nobody has set a folder; its own is below `tmp_path`."""
    before = {key: jax.config.values[key] for key in KEYS}
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "fedjax_sim"
    for key, value in before.items():
        jax.config.update(key, value)
    compilation_cache.reset_cache()


@pytest.fixture
def events():
    """How often JAX found a program, or not."""
    counts: Counter[str] = Counter()

    def count(event: str, **details) -> None:
        del details
        counts[event.rpartition("/")[2]] += 1

    jax.monitoring.register_event_listener(count)
    yield counts
    jax.monitoring.unregister_event_listener(count)


@pytest.mark.slow
def test_a_run_reads_what_another_compiled_and_gives_the_same_bits(
    fresh, events, tmp_path
):
    config = resolve(override(BASE, {"rounds": 2, "checkpoint.every_rounds": 2}))
    outcomes = []
    for name in ("first", "second"):
        jax.clear_caches()
        events.clear()
        _, summary = loop.run(config, tmp_path / name)
        outcomes.append((dict(events), summary["final"]))
    (first, then), (second, now) = outcomes
    assert first["cache_misses"] > 0
    assert second.get("cache_misses", 0) == 0
    assert second["cache_hits"] >= first["cache_misses"]
    assert then == now
    assert list(fresh.glob("programs-*/*"))


def test_what_the_user_set_for_jax_stays(fresh, tmp_path):
    own = str(tmp_path / "own")
    jax.config.update("jax_compilation_cache_dir", own)
    keep_programs("auto")
    assert jax.config.values["jax_compilation_cache_dir"] == own
    assert not fresh.exists()


def test_off_keeps_nothing(fresh):
    keep_programs("off")
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_folder_of_one_s_own(fresh, tmp_path):
    keep_programs(str(tmp_path / "mine"))
    jax.jit(lambda x: jnp.sin(x) @ x)(np.ones((3, 3)))
    assert list((tmp_path / "mine").glob("programs-*/*"))
    assert not fresh.exists()


def test_a_folder_that_cannot_be_written_is_one_line(fresh, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        keep_programs(str(tmp_path / "file"))
    assert "config.execution.compilation_cache" in caplog.text
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_user_without_a_home_is_one_line(fresh, monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", nowhere)
    with caplog.at_level(logging.WARNING):
        keep_programs("auto")
    assert "~/.cache/fedjax_sim" in caplog.text
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_a_bucket_is_refused(fresh):
    with pytest.raises(InputError, match="compilation_cache=gs://"):
        keep_programs("gs://bucket/programs")
