"""Label flipping against the reconstruction of FedREDefense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, start_state

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.adaptive_label_flip import largest_factor
from fedjax_sim.contracts.attack import CraftView
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.fedredefense import fedredefense

NAMES = ("adaptive_label_flip", "adaptive_targeted_label_flip")
FEW = {"first_limit": 2, "later_limit": 1, "inner_steps": 2, "stack": 1}
SERVER = {
    "defense.name": "fedredefense",
    **{f"defense.{key}": value for key, value in FEW.items()},
}


def test_factors_are_found_by_halving_steps():
    limits = jnp.array([0.5, 1.0, 1.6, 3.0, 9.0])
    found = largest_factor(lambda factor: factor <= limits, 5)
    np.testing.assert_array_equal(found, [1.0, 1.0, 1.5, 3.0, 4.875])


@pytest.mark.parametrize(
    "name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_scales_with_the_server_s_threshold(name):
    """With no threshold to fear the update grows to its limit; with one of 0, not."""
    built = build(SERVER | {"attack.name": name})
    state = start_state(built)
    network = built.parts.network
    rng = np.random.default_rng(0)
    updates = jnp.asarray(0.01 * rng.normal(size=(4, network.layout.size)), "f4")
    view = CraftView(
        round=jnp.int32(1),
        key=jax.random.key(0),
        global_params=state.params,
        updates=updates,
        malicious=jnp.array([False, True, False, True]),
        present=jnp.ones(4, bool),
        client_ids=jnp.array([0, 2, 3, 5]),
        defense=state.defense,
        network=network,
    )
    attack = ATTACKS[name].factory()
    for threshold, factor in ((1e9, 4.875), (1e-9, 1.0)):
        settings = fedredefense(threshold=threshold, **FEW).settings
        server = view._replace(settings=settings)
        found, crafted = jax.jit(
            lambda server=server: attack.craft(attack.init(None), server)
        )()
        rows = view.malicious
        np.testing.assert_allclose(attack.report(found)["factor"], factor, rtol=1e-6)
        np.testing.assert_allclose(crafted[rows], factor * updates[rows], rtol=1e-6)


@pytest.mark.slow
def test_is_told_the_server_s_settings():
    """In a round, with the config's numbers: a large threshold lets all pass."""
    changes = {"attack.name": NAMES[0], "participation.clients_per_round": 6}
    built = build(SERVER | changes)
    step, state, grown = jax.jit(built.round_step), start_state(built), {}
    for threshold in (1e9, 1e-9):  # an input of the program
        hyper = built.inputs.hyper
        options = hyper.options | {"defense.threshold": np.float32(threshold)}
        inputs = built.inputs._replace(hyper=hyper._replace(options=options))
        _, report = step(state, inputs)
        grown[threshold] = report.update_norms[report.malicious]
    np.testing.assert_allclose(grown[1e9], 4.875 * grown[1e-9], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_needs_the_defence_it_imitates(name):
    with pytest.raises(InputError, match=r"config\.defense.name = 'fedredefense'"):
        build({"attack.name": name})


@pytest.mark.parametrize("name", NAMES)
def test_bad_steps_are_refused(name):
    with pytest.raises(InputError, match=r"config\.attack.least_step"):
        ATTACKS[name].factory(least_step=0.0)
    with pytest.raises(InputError, match=r"config\.attack.step"):
        ATTACKS[name].factory(step=0.01)
