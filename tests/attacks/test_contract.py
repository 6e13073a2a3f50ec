"""What every registered attack must do; see `fedjax_sim.contracts.attack`.

The checks are `fedjax_sim.testing`'s, in which a user tests an attack of one's own.
"""

import atexit
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.testing import attacks as checks
from fedjax_sim.testing.attack_trial import Trial


def edge_file(channels: int = 1) -> str:
    """A file of six bright images, of the size of those that attacks are tried on."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name, "edge.npz")
    images = np.full((6, 28, 28, channels), 250, np.uint8)
    np.savez(path, train=images, test=images)
    return str(path)


# Settings under which an attack does something to six clients in three rounds.
EXAMPLES: dict[str, dict[str, Any]] = {
    "a3fl": {"trigger_epochs": 2, "model_epochs": 1},
    "altermin": {"benign_steps": 2},  # of the three of an attacker
    "block_backdoor": {"alpha": 0.5},
    "edge_case": {"path": edge_file()},
    "gaussian": {"std": 0.1},
    "leadfl_backdoor": {"copies": 2},
    "lie": {"z": 1.0},  # z_max of 2 in 6 clients is 0
    "neurotoxin": {"norm_bound": 0.2},
    "poisonedfl": {"window": 2},
}


def example(name: str) -> Attack:
    return ATTACKS[name].factory(**EXAMPLES.get(name, {}))


# They work against one defence alone: tests/attacks/test_adaptive_label_flip.py.
GENERAL = sorted(name for name in ATTACKS if not name.startswith("adaptive_"))


def users(*seams: str) -> list[str]:
    """The attacks that use one of the seams."""
    uses = lambda name: any(getattr(example(name), seam) for seam in seams)
    return [name for name in GENERAL if uses(name)]


CRAFTING = users("craft")
TRAINING = users("poison", "local_transform", "local_stages")


@pytest.fixture(params=GENERAL)
def name(request):
    return request.param


@functools.cache
def trial(name: str) -> Trial:
    return Trial(name, EXAMPLES.get(name, {}))


def test_knowledge_is_declared(name):
    checks.knowledge_is_declared(name, ATTACKS[name].factory())


def test_every_example_belongs_to_an_attack():
    assert set(EXAMPLES) <= set(ATTACKS)


def test_short_federation_with_a_state_of_fixed_shape(name):
    checks.state_keeps_its_shapes(trial(name))


@pytest.mark.parametrize("name", sorted(set(GENERAL) - {"none"}))
def test_only_attackers_send_something_else(name):
    checks.only_attackers_send_something_else(trial(name), trial("none"))


@pytest.mark.parametrize("name", sorted(set(GENERAL) - {"none"}))
def test_outside_its_window_an_attack_does_nothing(name):
    checks.windows_are_kept(name, ATTACKS[name].factory, {})


def test_every_attack_has_a_window():
    for name in set(GENERAL) - {"none"}:
        assert {"start_round", "end_round"} <= set(ATTACKS[name].options), name


@pytest.mark.slow  # compiles every attack a second time
@pytest.mark.parametrize("name", TRAINING)
def test_stacking_of_clients_does_not_matter(name):
    checks.stacking_does_not_matter(trial(name))


@pytest.mark.parametrize("name", CRAFTING)
def test_craft_does_not_depend_on_the_order_of_rows(name):
    checks.rows_may_be_in_any_order(trial(name))


@pytest.mark.parametrize("name", CRAFTING)
@pytest.mark.parametrize("attackers", [0, 1, 6])
def test_craft_is_finite_for_any_number_of_attackers(name, attackers):
    checks.crafted_updates_are_finite(trial(name), attackers)
