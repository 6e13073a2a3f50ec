"""Which runs belong to a cell of a paper's table, and in what they differ from it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import TABLES
from fedjax_sim.reports.store import Row, same
from fedjax_sim.runs.files import plain

# Differences that say nothing about a protocol.
SEEDS = ("seed", "partition.seed", "participation.offset")
_RECORDING = ("execution", "checkpoint", "log", "evaluation", "data.data_dir")


def check_ignored(ignore: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuses what is no key or section; options depend on a section's name."""
    known = {*config, *(key.partition(".")[0] for key in config), "mcr"}
    for key in ignore:
        if key not in known and key.partition(".")[0] not in TABLES:
            raise InputError(
                f"--ignore={key}: no key or section of these configs; "
                f"{did_you_mean(key, known)}"
            )


def _within(key: str, names: Sequence[str]) -> bool:
    """Whether a key is one of these, or in a section that is."""
    return key in names or key.partition(".")[0] in names


def unlike(
    run: Row, config: Mapping[str, Any], match: Sequence[str], ignore: Sequence[str]
) -> set[str]:
    """The keys that keep a run out of a cell."""
    return {
        key
        for key, value in config.items()
        if _within(key, match)
        and not _within(key, (*ignore, *SEEDS, "data.data_dir"))
        and not _alike(run.get(key.replace(".", "_")), value)
    }


def _alike(here: Any, value: Any) -> bool:
    """Whether a run's value is that of a config; lists are text in the store."""
    if isinstance(value, list | tuple):
        value = json.dumps(plain(value))
    return same(here, value)


def differences(
    run: Row, config: Mapping[str, Any], known: Mapping[str, str]
) -> set[tuple[str, str, str]]:
    """(key, published, here), `known` being what the paper ran otherwise."""
    found = set()
    for key, value in config.items():
        if key in SEEDS or _within(key, _RECORDING):
            continue
        here = run.get(key.replace(".", "_"))
        if not _alike(here, value):
            found.add((key, str(known.get(key, value)), str(here)))
    for key, published in known.items():
        here = str(run.get(key.replace(".", "_")))
        if here != published:
            found.add((key, published, here))
    return found
