"""`fedjax_sim.testing` finds what is broken in a rule, and says it in one line."""

import jax.numpy as jnp
import pytest
from attacks.test_contract import EXAMPLES, GENERAL

from fedjax_sim import Attack, Defense, Stage, exclude, included, pipeline, stateless
from fedjax_sim.attacks import ATTACKS
from fedjax_sim.contracts.defense import Aggregate
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.droplet import droplet
from fedjax_sim.defenses.fldetector import fldetector
from fedjax_sim.defenses.norm_bound import norm_bound
from fedjax_sim.testing import check_attack, check_defense
from fedjax_sim.testing.defenses import find_trial


def growing():
    twice = lambda state, cohort, context: (jnp.concatenate([state, state]), cohort)
    return pipeline(Stage(lambda spec: jnp.zeros(1), twice))


def leaky():
    """Counts excluded clients in the mean."""
    mean = lambda rows: rows.mean(0)
    return pipeline(
        reduce=lambda cohort, context: Aggregate(
            mean(cohort.updates), mean(cohort.buffers)
        )
    )


def ordered():
    """Trusts the first client of the cohort, whom no `pipeline` has sorted."""
    mean = pipeline()

    def aggregate(state, cohort, context):
        first = exclude(cohort, jnp.cumsum(included(cohort)) > 1)
        return mean.aggregate(state, first, context)

    return mean._replace(aggregate=aggregate)


def branching():
    def judge(cohort, context):
        return exclude(cohort, included(cohort)) if cohort.weights[0] > 2 else cohort

    return pipeline(stateless(judge))


def careless():
    """Trusts whoever sends NaN."""
    reduce = pipeline().aggregate
    bare = pipeline()

    def aggregate(state, cohort, context):
        state, _, result = reduce(state, cohort, context)
        zeros = jnp.zeros(len(cohort.weights), bool)
        return state, cohort._replace(scores={"non_finite": zeros}), result

    return bare._replace(aggregate=aggregate)


def too_many():
    """Never accepts a federation."""

    def init(spec):
        raise InputError("config.defense.k = 99 must be at most 9")

    return pipeline(Stage(init, lambda state, cohort, context: (state, cohort)))


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        (growing, ["state changes", "float32[1]", "float32[2]"]),
        (leaky, ["weight 0", "influence"]),
        (ordered, ["order of the clients matters"]),
        (branching, ["TracerBoolConversionError"]),
        (careless, ["reports []"]),
        (too_many, ["refuses every federation", "k = 99"]),
        (list, ["list", "no Defense"]),
    ],
)
def test_a_broken_defense(factory, parts):
    with pytest.raises(AssertionError) as error:
        check_defense(factory)
    one_line(error, factory, parts)


def one_line(error, factory, parts):
    text = str(error.value)
    assert "\n" not in text and text.startswith(factory.__name__)
    for part in parts:
        assert part in text


def test_a_defense_of_our_own():
    check_defense(norm_bound)
    with pytest.raises(InputError, match=r"config\.defense\.penalty"):
        check_defense(droplet, penalty=-1.0)


def test_a_federation_is_found_in_which_everybody_takes_part():
    trial = find_trial("fldetector", fldetector())
    assert (trial.n, trial.population) == (9, 9)


@pytest.mark.slow  # each is compiled a few times
@pytest.mark.parametrize("name", sorted(set(DEFENSES) - {"drop"}))
def test_every_defense_passes(name):
    check_defense(DEFENSES[name].factory)


def longer(*, state_size: int = 2):
    return Attack(
        ("own_updates",),
        init=lambda spec: jnp.zeros(2),
        craft=lambda state, view: (jnp.zeros(state_size), -view.updates),
    )


def one_row():
    craft = lambda state, view: (state, -view.updates[0])
    return Attack(("own_updates",), craft=craft)


def by_place():
    rows = lambda view: jnp.arange(len(view.malicious), dtype=jnp.float32)
    return Attack(
        ("own_updates",),
        craft=lambda state, view: (state, view.updates * rows(view)[:, None]),
    )


def divided():
    """By the number of benign clients."""

    def craft(state, view):
        benign = (view.present & ~view.malicious).sum()
        return state, -view.updates / benign

    return Attack(("own_updates",), craft=craft)


@pytest.mark.parametrize(
    ("factory", "options", "parts"),
    [
        (lambda: Attack(("everything",)), {}, ["knowledge", "own_data"]),
        (longer, {"state_size": 3}, ["state changes", "[2]", "[3]"]),
        (one_row, {}, ["updates [", "not [6"]),
        pytest.param(
            by_place,
            {},
            ["order of the clients matters to craft"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            divided, {}, ["6 attackers of 6", "not finite"], marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: Attack(("own_data",)),
            {},
            ["changes nothing"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_broken_attack(factory, options, parts):
    with pytest.raises(AssertionError) as error:
        check_attack(factory, **options)
    one_line(error, factory, parts)


@pytest.mark.slow  # each is compiled a few times
@pytest.mark.parametrize("name", sorted(set(GENERAL) - {"none"}))
def test_every_attack_passes(name):
    check_attack(ATTACKS[name].factory, **EXAMPLES.get(name, {}))


def test_a_window_that_is_not_kept():
    def always(*, start_round: int = 1, end_round: int | None = None) -> Attack:
        return longer()._replace(active=lambda round_: jnp.bool_(True))

    with pytest.raises(AssertionError, match="acts in rounds"):
        check_attack(always)


def test_a_defense_that_no_function_makes():
    assert isinstance(pipeline(), Defense)
    with pytest.raises(AssertionError, match="TypeError"):
        check_defense(lambda *, k: pipeline())
