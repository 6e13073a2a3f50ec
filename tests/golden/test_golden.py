"""Runs every golden file through the adapter of its family and prefix.

    pytest tests/golden --golden_dir=DIR

The prefix of a file is what stands before `__`; where there is no such adapter, its
name without a trailing `_<number>`, `_seed<number>` or `_<H>x<W>x<C>`. A file without
an adapter is a failure: numbers that nobody looks at prove nothing.

An adapter takes files of any shape, number of clients and float type; only what the
names and fields of a file mean is fixed; see README.md.
"""

import re
from collections.abc import Callable
from pathlib import Path

import adapters_attacks
import adapters_clients
import adapters_data
import adapters_defenses
import adapters_distillation
import adapters_flip
import adapters_models
import adapters_peers_attacks
import adapters_peers_clusters
import adapters_peers_means
import adapters_peers_triggers
import adapters_reconstruction
import numpy as np
import pytest

Check = Callable[[dict[str, np.ndarray]], None]
FAMILIES = ("drop_family", "fedredefense_family", "leadfl_family", "peers_family")

# (family, prefix) -> check.
ADAPTERS: dict[tuple[str, str], Check] = {
    (family, prefix): check
    for family in FAMILIES
    for table in (
        adapters_data.ADAPTERS.get(family, {}),
        adapters_attacks.ADAPTERS.get(family, {}),
        adapters_clients.ADAPTERS.get(family, {}),
        adapters_distillation.ADAPTERS.get(family, {}),
        adapters_flip.ADAPTERS.get(family, {}),
        adapters_reconstruction.ADAPTERS.get(family, {}),
        adapters_defenses.ADAPTERS.get(family, {}),
        adapters_models.ADAPTERS.get(family, {}),
        adapters_peers_attacks.ADAPTERS.get(family, {}),
        adapters_peers_clusters.ADAPTERS.get(family, {}),
        adapters_peers_means.ADAPTERS.get(family, {}),
        adapters_peers_triggers.ADAPTERS.get(family, {}),
    )
    for prefix, check in table.items()
}


def find_adapter(path: Path) -> Check | None:
    unnumbered = re.sub(r"_((seed)?\d+|\d+x\d+x\d+)$", "", path.stem)
    for prefix in (path.stem.split("__")[0], unnumbered):
        if (path.parent.name, prefix) in ADAPTERS:
            return ADAPTERS[path.parent.name, prefix]
    return None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("drop_family/fedavg__any", True),
        ("drop_family/combine_params", True),
        ("leadfl_family/crfl_12", True),
        ("leadfl_family/selection_seed300", True),
        ("leadfl_family/trigger_30x27x3", True),
        ("leadfl_family/fedavg__any", False),
        ("drop_family/unheard_of__any", False),
        ("another_family/fedavg__any", False),
    ],
)
def test_only_known_kinds_of_files_have_an_adapter(name, found):
    assert (find_adapter(Path(f"{name}.npz")) is not None) == found


def test_folder_holds_golden_files(golden_folder):
    assert golden_folder.is_dir(), f"{golden_folder} is not a folder"
    assert any(golden_folder.rglob("*.npz")), f"{golden_folder} holds no .npz file"


def test_golden(golden_file):
    check = find_adapter(golden_file)
    if check is None:
        pytest.fail(
            f"no adapter for {golden_file.name} of {golden_file.parent.name}: nothing "
            "here checks these numbers yet",
            pytrace=False,
        )
    with np.load(golden_file, allow_pickle=False) as arrays:
        check(dict(arrays))
