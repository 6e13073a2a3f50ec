"""Stages, and weights, as a config asks for them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import program
from fedjax_sim.experiment.config import override, resolve, to_dict
from fedjax_sim.experiment.sides import sides_of
from fedjax_sim.testing.defense_trial import make_cohort, make_context, make_spec


def defense_of(**section):
    return sides_of(resolve({"defense": section}))({}).defense


def aggregate(defense, updates, counts):
    cohort = make_cohort(updates)._replace(num_examples=jnp.asarray(counts))
    spec = make_spec(len(updates), num_params=cohort.updates.shape[1])
    context = make_context(cohort.updates.shape[1])
    return defense.aggregate(defense.init(spec), cohort, context)


def test_options_of_a_stage_begin_with_its_name():
    config = resolve({"defense": {"before": ("bucketing",), "bucketing_size": 3}})
    assert config.defense.options == {"bucketing_size": 3}
    assert resolve(to_dict(config)) == config
    # As JSON and the command line have it.
    same = {"before": ["bucketing"], "bucketing_size": 3}
    assert resolve({"defense": same}) == config
    same = {"before": "bucketing,", "bucketing_size": 3}
    assert resolve({"defense": same}) == config


def test_a_stage_acts_with_its_options():
    defense = defense_of(before=("clipping",), clipping_norm=0.5)
    _, _, result = aggregate(defense, np.eye(2), [1, 1])
    np.testing.assert_allclose(result.update, [0.25, 0.25])


def test_a_sweep_over_an_option_of_a_stage_compiles_once():
    base = {"defense": {"name": "median", "before": ("clipping", "nnm")}}
    one, two = (
        resolve(override(base, {"defense.clipping_norm": norm})) for norm in (1.0, 2.0)
    )
    assert program.traced_options(two) == {"defense.clipping_norm": 2.0}
    assert program.identity(one) == program.identity(two)
    other = resolve(override(base, {"defense.before": ("nnm",)}))
    assert program.identity(one) != program.identity(other)


def test_another_rule_keeps_the_stages():
    base = {"defense": {"before": ("clipping",), "clipping_norm": 0.5}}
    changed = resolve(override(base, {"defense.name": "median"}))
    assert changed.defense.options == {"variant": "paper", "clipping_norm": 0.5}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"before": ("nmm",)}, "config.defense.before = 'nmm' does not exist; did you"),
        ({"before": 3}, "config.defense.before = 3: "),
        ({"before": ("clipping",), "clipping_norm": 0.0}, "defense.clipping_norm = 0"),
        ({"before": ("clipping",), "clipping_nrm": 1.0}, "mean 'clipping_norm'"),
        ({"clipping_norm": 1.0}, "config.defense.clipping_norm is not a key"),
        ({"before": ("nnm", "nnm")}, "has a stage twice"),
        ({"name": "flcert", "before": ("nnm",)}, "'flcert' trains a model for each"),
        (
            {"name": "fldetector", "before": ("bucketing",)},
            "'fldetector' bans clients for good, and 'bucketing' would",
        ),
        ({"name": "median", "weights": "examples"}, "takes no mean by the clients'"),
        ({"before": ("bucketing",), "weights": "examples"}, "the same weight"),
    ],
)
def test_what_cannot_be_is_one_line(section, words):
    with pytest.raises(InputError) as error:
        defense_of(**section)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "expected"), [("uniform", [0.5, 0.5]), ("examples", [0.25, 0.75])]
)
def test_weights_of_a_mean(weights, expected):
    _, cohort, result = aggregate(defense_of(weights=weights), np.eye(2), [10, 30])
    np.testing.assert_allclose(result.update, expected)
    assert (cohort.weights > 0).all()


def test_a_client_without_samples_does_not_count():
    _, cohort, result = aggregate(defense_of(weights="examples"), np.eye(2), [0, 30])
    np.testing.assert_allclose(result.update, [0, 1])
    assert cohort.weights.tolist() == [0, 30]
