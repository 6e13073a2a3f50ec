"""Which values of a config are inputs of the compiled program."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BASE, build

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.experiment import program
from fedjax_sim.experiment.config import TABLES, override, resolve

# Every client takes part in every round, the last ones are malicious.
EVERYBODY = {
    "participation.clients_per_round": 6,
    "attack.malicious_clients": "last",
}
# Enough for rules that distrust up to two clients.
MANY = {
    "attack.num_malicious": 1,
    "attack.victim_class": None,  # the attacker need not hold one
    "partition.num_clients": 12,
    "participation.clients_per_round": 12,
}
# What an entry needs to work with so few and small clients.
NEEDS = {
    "adaptive_label_flip": {"defense.name": "fedredefense"},
    "adaptive_targeted_label_flip": {"defense.name": "fedredefense"},
    "block_backdoor": {"attack.alpha": 0.1},
    "bulyan": MANY,
    "bulyan_leadfl": MANY,
    "krum": MANY,
    "multikrum": MANY,
    "drop": {"defense.num_seed": 20, "defense.batch_size": 8, "defense.budget": 800},
    "chameleon": {"attack.contrastive_epochs": 1, "attack.classifier_epochs": 1},
    "crfl": {"defense.num_votes": 4},
    "fltrust": {"defense.num_samples": 20},
    "flare": {"defense.num_samples": 20},
    "finetune": {"defense.num_samples": 20},
    "flcert": {"defense.num_groups": 2},
    "flip": {
        "defense.steps": 2,
        "defense.steps_again": 1,
        "defense.start_round": 1,
        "defense.size_min": 1,
    },
    "fedredefense": {"defense.first_limit": 2, "defense.later_limit": 2},
}
# Their triggers do not fit on images of 8x8 pixels.
LARGE_IMAGES = {"dba", "scaling", "leadfl_backdoor"}
FILES = {"edge_case"}  # of the user's
# Numbers other than the defaults, for options of which None is the default.
NUMBERS = {
    "num_byzantine": 1,
    "num_neighbors": 2,
    "scale": 1.5,
    "lr": 0.1,
    "z": 0.3,
    "clip_norm": 1.0,
    "norm_bound": 1.0,
    "nu": 0.01,
    "blacklist_threshold": 3.0,
    "tau_b": 1.5,
}


def entries(only=lambda entry: True):
    """(section, name) of the registered attacks and defences."""
    return [
        (section, name)
        for section in program.SIDES
        for name, entry in TABLES[section].items()
        if only(entry) and name not in LARGE_IMAGES | FILES
    ]


def changes(section, name):
    return {**EVERYBODY, f"{section}.name": name, **NEEDS.get(name, {})}


# --------------------------------------------------------------------- identity


def identity(own):
    return program.identity(resolve(override(BASE, own)))


@pytest.mark.parametrize(
    "own",
    [
        {"seed": 1},
        {"client.lr": 0.3},
        {"client.momentum": 0.0},
        {"client.weight_decay": 0.1},
        {"server.lr": 0.5},
        {"attack.dpr": 0.25},
        {"partition.name": "drop_dirichlet"},
        {"partition.seed": 5},
    ],
)
def test_inputs_do_not_change_the_program(own):
    assert identity(own) == identity({})


@pytest.mark.parametrize(
    "own",
    [
        {"rounds": 5},
        {"client.batch_size": 8},
        {"client.epochs": 2},
        {"model.width": 9},
        {"partition.num_clients": 7},
        {"attack.num_malicious": 1},
        {"attack.start_round": 2},
        {"defense.name": "median"},
        {"data.num_train": 100},
        {"evaluation.every": 2},
        {"execution.clients": "vmap"},
    ],
)
def test_what_shapes_the_program(own):
    assert identity(own) != identity({})


def test_an_option_of_none_shapes_the_program():
    with_bound, other, without = (
        identity({"attack.name": "neurotoxin", "attack.norm_bound": bound})
        for bound in (1.0, 2.0, None)
    )
    assert with_bound == other != without


def test_traced_options_are_those_of_all_sides():
    config = resolve(
        override(
            BASE,
            {
                "defense": {"name": "flame", "noise_sigma": 0.25},
                "client_defense": {"name": "ldp", "scale": 0.5},
            },
        )
    )
    assert program.traced_options(config) == {
        "attack.dpr": 1.0,
        "defense.noise_sigma": 0.25,
        "client_defense.scale": 0.5,
    }


@pytest.mark.parametrize("table", [ATTACKS, DEFENSES, CLIENT_DEFENSES])
def test_what_is_traced_is_an_option(table):
    for entry in table.values():
        parameters = inspect.signature(entry.factory).parameters
        for key in entry.traced:
            assert re.search("int|float", str(parameters[key].annotation))


# ------------------------------------------------------------------- the program


def traced_round(built):
    """The program of a round as text, and the constants in it."""
    state = jax.eval_shape(built.init, built.inputs)
    closed = jax.make_jaxpr(built.round_step)(state, built.inputs)
    return re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), closed.consts


LONG = {"adaptive_label_flip", "adaptive_targeted_label_flip", "chameleon", "drop"}


@pytest.mark.parametrize(
    ("section", "name"),
    [
        pytest.param(*entry, marks=pytest.mark.slow if entry[1] in LONG else ())
        for entry in entries()
    ],
)
def test_two_seeds_are_one_program(section, name):
    """Nothing that depends on the seed is a constant of the program."""
    own = changes(section, name)
    first, second = (
        traced_round(build({**own, "seed": seed, "client.lr": 0.1 * (1 + seed)}))
        for seed in (0, 1)
    )
    assert first[0] == second[0]
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(a, b)


def other_number(key, value):
    if value is None:
        return 2 if isinstance(NUMBERS[key], int) else 0.7 * NUMBERS[key]
    return 2 if isinstance(value, int) else 0.6 * value + 0.01


def two_rounds(built, options):
    hyper = built.inputs.hyper._replace(options=options)
    inputs = built.inputs._replace(hyper=hyper)
    step = jax.jit(built.round_step)
    state = jax.device_put(built.init(inputs), jax.devices()[0])
    for _ in range(2):
        state, _ = step(state, inputs)
    return state


FAST = {"backdoor", "droplet", "ldp"}


@pytest.mark.parametrize(
    ("section", "name"),
    [
        pytest.param(*entry, marks=() if entry[1] in FAST else pytest.mark.slow)
        for entry in entries(lambda entry: entry.traced)
    ],
)
def test_traced_options_take_effect(section, name):
    """Other numbers given to a program equal a program made with them."""
    own = changes(section, name)
    table = TABLES[section]
    defaults = resolve(override(BASE, own))
    values = {
        f"{section}.{key}": other_number(key, getattr(defaults, section).options[key])
        for key in table[name].traced
    }
    # None shapes the program: what is None by default is a number in both.
    first = {
        key: NUMBERS[key.partition(".")[2]]
        for key in values
        if getattr(defaults, section).options[key.partition(".")[2]] is None
    }
    usual, other = build({**own, **first}), build({**own, **values})
    options = other.inputs.hyper.options
    # What is poisoned, an input too.
    plan = other.inputs.data.poison_plan
    data = usual.inputs.data._replace(poison_plan=plan)
    usual = usual._replace(inputs=usual.inputs._replace(data=data))

    got, wanted = two_rounds(usual, options), two_rounds(other, {})

    assert jnp.isfinite(wanted.params).all()
    np.testing.assert_allclose(got.params, wanted.params, rtol=1e-4, atol=1e-5)
