"""What every registered attack must do; see `fedjax_sim.contracts.attack`."""

import functools
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_view, quick_jit
from helpers import BASE, digits, spied, spy, start_state

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.attack import Attack, Knowledge
from fedjax_sim.contracts.dataset import Dataset
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment import build as experiment
from fedjax_sim.experiment.config import override, resolve
from fedjax_sim.round.federation import run_rounds
from fedjax_sim.round.state import FedState, RoundReport

# Everybody takes part, the last two are malicious.
COHORT = {"participation.clients_per_round": 6, "attack.malicious_clients": "last"}
ROUNDS = 3

# Settings under which an attack does something to six clients in three rounds.
EXAMPLES: dict[str, dict[str, Any]] = {
    "block_backdoor": {"alpha": 0.5},
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


@pytest.fixture(autouse=True)
def spy_defense(monkeypatch):
    monkeypatch.setitem(DEFENSES, "spy", Entry(spy, "-", "none"))


class Run(NamedTuple):
    """A federation after none, one and all of its rounds."""

    built: experiment.Experiment
    start: FedState
    first: FedState
    last: FedState
    reports: RoundReport


@functools.cache
def framed_digits() -> Dataset:
    """Digits of 28x28 pixels: every trigger fits."""
    frame = lambda images: np.pad(images, ((0, 0), (10, 10), (10, 10), (0, 0)))
    data = digits()
    return data._replace(
        train_images=frame(data.train_images), test_images=frame(data.test_images)
    )


@functools.cache
def run(name: str, clients: str = "map") -> Run:
    options = {f"attack.{key}": value for key, value in EXAMPLES.get(name, {}).items()}
    changes = {"attack.name": name, "defense.name": "spy", **options, **COHORT}
    changes["execution.clients"] = clients
    built = experiment.build(resolve(override(BASE, changes)), framed_digits())
    start = start_state(built)
    rounds = quick_jit(
        lambda state, count: run_rounds(
            built.round_step, state, built.inputs, count, ROUNDS
        )
    )
    first, _ = rounds(start, jnp.int32(1))
    last, reports = rounds(start, jnp.int32(ROUNDS))
    return Run(built, start, first, last, reports)


def shapes(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def test_knowledge_is_declared(name):
    attack = ATTACKS[name].factory()

    assert isinstance(attack.knowledge, tuple)
    assert set(attack.knowledge) <= set(get_args(Knowledge))


def test_every_example_belongs_to_an_attack():
    assert set(EXAMPLES) <= set(ATTACKS)


def test_short_federation_with_a_state_of_fixed_shape(name):
    """Jitted and looped over rounds on the device."""
    _, start, _, last, reports = run(name)

    assert shapes(last.attack) == shapes(start.attack)
    assert jnp.isfinite(last.params).all()
    assert not np.array_equal(last.params, start.params)
    np.testing.assert_array_equal(reports.malicious, [[0, 0, 0, 0, 1, 1]] * ROUNDS)


@pytest.mark.parametrize("name", sorted(set(GENERAL) - {"none"}))
def test_only_attackers_send_something_else(name):
    attacked, clean = run(name), run("none")
    sent, honest = spied(attacked.first), spied(clean.first)

    np.testing.assert_allclose(sent[:4], honest[:4], rtol=1e-5, atol=1e-6)
    # In some round: several attacks have to watch before they act.
    assert not np.allclose(attacked.last.params, clean.last.params, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(GENERAL) - {"none"}))
def test_outside_its_window_an_attack_does_nothing(name):
    factory = ATTACKS[name].factory
    active = factory(start_round=3, end_round=5).active

    assert [bool(active(jnp.int32(t))) for t in range(1, 7)] == [
        *(False, False, True, True, False, False)
    ]
    assert bool(factory(end_round=2).active(jnp.int32(1)))
    for window in ({"start_round": 0}, {"start_round": 4, "end_round": 4}):
        with pytest.raises(ValueError, match=r"config\.attack\.(start|end)_round"):
            factory(**window)


@pytest.mark.slow  # compiles every attack a second time
@pytest.mark.parametrize("name", TRAINING)
def test_stacking_of_clients_does_not_matter(name):
    one, four = run(name).last, run(name, "chunk:4").last
    np.testing.assert_allclose(spied(four), spied(one), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(four.params, one.params, rtol=1e-4, atol=1e-5)


@functools.cache
def craft(name: str):
    return quick_jit(example(name).craft)


@pytest.mark.parametrize("name", CRAFTING)
def test_craft_does_not_depend_on_the_order_of_rows(name):
    state = run(name).first.attack
    view = make_view([False] * 3 + [True] * 3, run(name).start.params.size)
    order = jnp.array([5, 2, 0, 4, 1, 3])
    rows = ("updates", "malicious", "present", "client_ids")
    shuffled = view._replace(**{key: getattr(view, key)[order] for key in rows})

    _, crafted = craft(name)(state, view)
    _, other = craft(name)(state, shuffled)

    chosen = view.malicious[order]
    np.testing.assert_allclose(
        other[chosen], crafted[order][chosen], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CRAFTING)
@pytest.mark.parametrize("attackers", [0, 1, 6])
def test_craft_is_finite_for_any_number_of_attackers(name, attackers):
    """None in this round, one alone, nobody benign."""
    malicious = np.arange(6) >= 6 - attackers
    view = make_view(malicious, run(name).start.params.size)

    state, crafted = craft(name)(run(name).first.attack, view)

    assert jnp.isfinite(crafted[malicious]).all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
