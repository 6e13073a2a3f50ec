"""What every registered defence must do (the list in `contracts/defense.py`).

The checks are `fedjax_sim.testing`'s, in which a user tests a rule of one's own; what
only some rules promise stands here. A defence that is added to `DEFENSES` is tested
without another line; `EXAMPLES` may add settings worth testing beside the defaults.
"""

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.testing import defense_checks as checks
from fedjax_sim.testing import extreme_updates
from fedjax_sim.testing.defense_trial import Trial, make_trial, surviving_ids, take
from fedjax_sim.testing.extreme_updates import hostile

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "median": [{}, {"variant": "authors"}],
    "multikrum": [{}, {"variant": "authors"}, {"num_selected": 1}],
    "krum": [{}, {"variant": "authors"}, {"num_neighbors": 2}],
    "trimmed_mean": [{}, {"variant": "authors"}],
    "norm_bound": [{}, {"bound": "oracle"}],
    "fltrust": [{}, {"variant": "authors"}],
    "foolsgold": [{}, {"variant": "authors"}],
    "flame": [{}, {"variant": "authors", "features": "updates"}],
    "random_aggregation": [
        {},
        {"normalization": "softmax", "num_selected": 3},
        {"per_layer": True},
    ],
    "iqr_clip_avg": [{}, {"variant": "as_printed"}],
    "sparsefed": [{"fraction": 0.3, "momentum": 0.5, "clip_norm": 1.0}],
    "prodigy": [{}, {"num_byzantine": 3}],
    "dnc": [{"num_byzantine": 2, "num_iterations": 3, "num_coordinates": 8}],
    "fedredefense": [
        {"first_limit": 2, "later_limit": 2, "inner_steps": 1, "threshold": 1e6}
    ],
    "droplet": [
        {},
        {"reward": None, "blacklist_threshold": 2.0},
        {"clustering": False, "base": "median"},
    ],
    "deepsight": [{"num_samples": 6, "num_seeds": 2, "min_cluster_size": 3}],
    "signguard": [{}, {"clustering": "meanshift", "variant": "authors"}],
    "weak_dp": [{"noise_sigma": 0.0}],
}

# Rules that do not return the common update when all clients agree.
NO_MEANS: set[str] = {
    "clip_avg",
    "flcert",
    "fltrust",
    "foolsgold",
    "sparsefed",
    "weak_dp",
}

# Rules for models without running statistics.
NO_BUFFERS: set[str] = set()

# DROP distils with images of at least 28x28; its judgement is DROplet's, which is here.
ELSEWHERE: set[str] = {"drop"}

# Rules for federations in which every client takes part in every round.
EVERYBODY: set[str] = {"fldetector"}

# Rules that promise to exclude or to bound one attacker of nine, and the settings under
# which they do. The others may follow a huge update, but stay finite.
ROBUST: dict[str, list[dict[str, Any]]] = {
    "bulyan": [{"num_byzantine": 1}, {"num_byzantine": 1, "variant": "ndss"}],
    "bulyan_leadfl": [{}],
    "clip_avg": [{}],
    "dnc": [{"num_byzantine": 1}],
    "flame": [
        {"noise_sigma": 0.0},
        {"noise_sigma": 0.0, "features": "updates"},
        {"noise_sigma": 0.0, "variant": "authors", "features": "updates"},
    ],
    "fltrust": [{}],
    "iqr_clip_avg": [{}],
    "iqr_filter": [{}],
    "krum": [{}, {"variant": "authors"}],
    "median": [{}, {"variant": "authors"}],
    "multikrum": [{}, {"variant": "authors"}, {"variant": "iterative"}],
    "norm_bound": [{}, {"bound": "oracle"}],
    "prodigy": [{"num_byzantine": 2}],
    "sparsefed": [{"clip_norm": 1.0}],
    "trimmed_mean": [{}, {"variant": "authors"}],
    "droplet": [{}],
    "caf": [{}],
    "mda": [{}],
    "meamed": [{}],
    "monna": [{"reference": "client", "reference_client": 0}],
    "smea": [{}],
}


def make_defense(name: str, index: int) -> Defense:
    return DEFENSES[name].factory(**EXAMPLES.get(name, [{}])[index])


CASES = [
    pytest.param(name, index, id="-".join([name, *map(str, kwargs.values())]))
    for name in sorted(DEFENSES.keys() - ELSEWHERE)
    for index, kwargs in enumerate(EXAMPLES.get(name, [{}]))
]
# Those that may ban clients.
EXPELLING = [case for case in CASES if make_defense(*case.values).eligible is not None]
every_defense = pytest.mark.parametrize(("name", "index"), CASES)
every_default = pytest.mark.parametrize(
    ("name", "index"), [case for case in CASES if case.values[1] == 0]
)
# Where a defence is compiled for that check alone.
defaults_quickly = pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(
            *case.values, id=case.id, marks=pytest.mark.slow if case.values[1] else ()
        )
        for case in CASES
    ],
)


@pytest.fixture(scope="module")
def make():
    """Returns a function to a defence in its federation; each is compiled once."""

    @cache
    def trial(name: str, index: int) -> Trial:
        return make_trial_of(name, make_defense(name, index))

    return trial


@pytest.fixture(scope="module")
def make_robust():
    """Returns a function as `make` does, to the settings of `ROBUST`."""

    @cache
    def trial(name: str, index: int) -> Trial:
        return make_trial_of(name, DEFENSES[name].factory(**ROBUST[name][index]))

    return trial


def make_trial_of(name: str, defense: Defense) -> Trial:
    return make_trial(
        name,
        defense,
        population=9 if name in EVERYBODY else 40,
        buffers=0 if name in NO_BUFFERS else 5,
    )


def test_every_exception_belongs_to_a_defence():
    assert {*EXAMPLES, *NO_MEANS, *NO_BUFFERS, *ELSEWHERE, *EVERYBODY} <= set(DEFENSES)


@every_defense
def test_order_of_clients_does_not_matter(name, index, make):
    checks.order_does_not_matter(make(name, index))


@every_defense
@pytest.mark.parametrize("junk", checks.JUNK)
def test_excluded_clients_have_no_influence(name, index, make, junk):
    checks.excluded_clients_have_no_influence(make(name, index), junk)


@defaults_quickly
def test_excluded_clients_are_as_good_as_absent(name, index, make):
    checks.excluded_clients_are_as_good_as_absent(make(name, index))


@every_defense
def test_non_finite_clients_are_reported_and_without_influence(name, index, make):
    checks.non_finite_clients_are_reported(make(name, index))


@every_defense
def test_huge_finite_updates_keep_the_model_finite(name, index, make):
    extreme_updates.huge_updates_keep_the_model_finite(make(name, index))


@every_defense
@pytest.mark.parametrize("copies", extreme_updates.COPIES)
def test_identical_updates_stay_finite_and_their_mean_is_the_common_one(
    name, index, make, copies
):
    means = name not in NO_MEANS
    extreme_updates.identical_updates_stay_finite(make(name, index), copies, means)


@every_default
def test_ties_go_by_client_id_whatever_the_order(name, index, make):
    trial = make(name, index)
    state, cohort, context = trial.start()
    rng = np.random.default_rng(3)
    rows = rng.integers(-1, 2, (4, cohort.updates.shape[1])).astype("f4")
    tied = cohort._replace(updates=jnp.asarray(rows[np.arange(9) % 4]))
    _, judged, result, _ = trial.jitted(state, tied, context)
    for _ in range(2):
        order = rng.permutation(9)
        moved = context._replace(malicious=context.malicious[order])
        _, again, same, _ = trial.jitted(state, take(tied, order), moved)
        assert surviving_ids(judged) == surviving_ids(again)
        np.testing.assert_array_equal(result.update, same.update)


@every_default
def test_weights_matter_to_those_that_say_so(name, index, make):
    trial = make(name, index)
    state, cohort, context = trial.start()
    results = [
        trial.jitted(state, cohort._replace(weights=weights), context)[2].update
        for weights in np.float32([np.ones(9), np.full(9, 100), np.arange(1, 10)])
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5)
    moved = not np.allclose(results[0], results[2], rtol=1e-4, atol=1e-4)
    assert moved == DEFENSES[name].weighs


@every_defense
@pytest.mark.parametrize("reason", ["absent", "non_finite"])
def test_no_survivors_keep_the_model(name, index, make, reason):
    checks.no_survivors_keep_the_model(make(name, index), reason)


@defaults_quickly
@pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_smallest_cohorts_work_or_are_refused(name, index, make, n):
    checks.small_cohorts_work_or_are_refused(make(name, index), n)


@every_default
def test_rounds_scan_and_seeds_vmap(name, index, make):
    checks.rounds_scan_and_seeds_vmap(make(name, index))


@every_default
def test_models_without_buffers(name, index, make):
    """In a small cohort, where the defence accepts one: that is tried by the way."""
    trial = make(name, index)
    try:
        trial.start(n=3)
    except InputError:
        checks.models_without_buffers_work(trial)
    else:
        checks.models_without_buffers_work(trial, n=3)


@pytest.mark.parametrize(("name", "index"), EXPELLING)
def test_eligibility_is_a_mask_of_the_population(name, index, make):
    checks.eligibility_is_a_mask_of_the_population(make(name, index))


def test_rules_of_all_three_ways_to_ban_are_among_them():
    assert {case.values[0] for case in EXPELLING} >= {
        "droplet",
        "fedredefense",
        "fldetector",
    }


robust = pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(name, index, id="-".join([name, *map(str, kwargs.values())]))
        for name in sorted(ROBUST)
        for index, kwargs in enumerate(ROBUST[name])
    ],
)


@robust
@pytest.mark.parametrize("benign", [1.0, 2.0**-100])
def test_one_attacker_is_excluded_or_bounded(name, index, benign, make_robust):
    trial = make_robust(name, index)
    state, cohort, context = trial.start()
    cohort = cohort._replace(updates=benign * cohort.updates)
    context = context._replace(malicious=jnp.arange(trial.n) == 4)
    others = np.asarray(cohort.updates, float)[np.arange(trial.n) != 4]
    mean = others.mean(0)
    # Near the benign mean: no farther from it than the longest update is from zero.
    distance = np.linalg.norm(others, axis=1).max()
    if benign < 1 and name in ABSOLUTE:
        distance = np.linalg.norm(mean) + ABSOLUTE[name]
    if benign < 1 and (name, ROBUST[name][index].get("variant")) == (
        "flame",
        "authors",
    ):
        # It shortens whole models, of which each client sends a ninth.
        distance = np.linalg.norm(context.global_params) / trial.n * 1.01
    for size in (1e3, 1e10, 1e20, 1e30, 3e38):
        for shape in ("constant", "signs"):
            dirty = hostile(cohort, np.array([4]), [size], shape)
            *_, result, model = trial.jitted(state, dirty, context)
            assert all(np.isfinite(x).all() for x in (*result, *model))
            assert np.linalg.norm(result.update - mean) <= distance, (size, shape)


# Rules whose bound is a length of its own, whatever the clients send; that length.
ABSOLUTE = {"clip_avg": 0.01, "iqr_clip_avg": 0.01, "fltrust": 0.5, "sparsefed": 1.0}


@every_defense
@pytest.mark.parametrize("signs", extreme_updates.SIGNS)
@pytest.mark.parametrize("sizes", extreme_updates.SIZES)
def test_finite_updates_give_finite_models(name, index, signs, sizes, make):
    extreme_updates.finite_updates_give_finite_models(make(name, index), signs, sizes)


@every_defense
def test_the_largest_numbers_of_all_stay_finite(name, index, make):
    extreme_updates.largest_numbers_stay_finite(make(name, index))


# Rules that compare updates with something else: their own numbers, models, features.
NOT_OF_ANY_SIZE = {
    *ABSOLUTE,
    "auror",
    "centered_clipping",
    "crfl",
    "deepsight",
    "fedredefense",
    "flame",
    "flare",
    "flcert",
    "monna",
    "random_aggregation",
    "weak_dp",
}


@every_defense
@pytest.mark.parametrize("power", [-100, 80])
def test_the_size_of_updates_does_not_matter(name, index, power, make):
    if name in NOT_OF_ANY_SIZE:
        return
    trial = make(name, index)
    state, cohort, context = trial.start()
    _, cohort1, result1, _ = trial.jitted(state, cohort, context)
    scale = 2.0**power
    scaled = cohort._replace(updates=scale * cohort.updates)
    _, cohort2, result2, _ = trial.jitted(state, scaled, context)
    assert surviving_ids(cohort1) == surviving_ids(cohort2)
    np.testing.assert_allclose(
        result1.update, result2.update / scale, rtol=1e-5, atol=1e-6
    )
