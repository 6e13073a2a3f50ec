"""What every stage in front of a rule must do: the contract of the rules behind it."""

import functools

import jax
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.parts.before import stages_before
from fedjax_sim.stages import STAGES
from fedjax_sim.testing import defense_checks as checks
from fedjax_sim.testing import extreme_updates
from fedjax_sim.testing.defense_trial import Trial, make_trial

TOGETHER = ("arc", "nnm", "bucketing", "clipping")


@functools.cache
def trial(*names: str, rule: str = "median") -> Trial:
    stages = {name: STAGES[name].factory() for name in names}
    defense = DEFENSES[rule].factory()
    return make_trial(rule, stages_before(rule, stages, defense))


def test_all_stages_are_tried():
    assert set(TOGETHER) == set(STAGES)


@pytest.mark.parametrize("names", [*((name,) for name in TOGETHER), TOGETHER])
def test_a_rule_behind_it_keeps_its_contract(names):
    tried = trial(*names)
    checks.state_keeps_its_shapes(tried)
    checks.order_does_not_matter(tried)
    for junk in checks.JUNK:
        checks.excluded_clients_have_no_influence(tried, junk)
    checks.non_finite_clients_are_reported(tried)
    extreme_updates.huge_updates_keep_the_model_finite(tried)
    for copies in extreme_updates.COPIES:
        extreme_updates.identical_updates_stay_finite(tried, copies)
    for reason in ("absent", "non_finite"):
        checks.no_survivors_keep_the_model(tried, reason)
    for sizes in extreme_updates.SIZES:
        extreme_updates.finite_updates_give_finite_models(tried, "signs", sizes)
    extreme_updates.largest_numbers_stay_finite(tried)


@pytest.mark.parametrize("n", [1, 3])
def test_smallest_cohorts(n):
    checks.small_cohorts_work_or_are_refused(trial(*TOGETHER), n)


@pytest.mark.slow
def test_absent_clients_rounds_and_seeds():
    checks.excluded_clients_are_as_good_as_absent(trial(*TOGETHER))
    checks.rounds_scan_and_seeds_vmap(trial(*TOGETHER))


def test_members_of_a_bucket_share_its_verdict():
    tried = trial("bucketing", rule="krum")
    _, cohort, _, _ = tried.jitted(*tried.start())
    bucket, weights = cohort.scores["bucket"], np.asarray(cohort.weights)
    assert np.bincount(bucket).tolist() == [2, 2, 2, 2, 1]
    chosen = np.unique(np.asarray(bucket)[weights > 0])
    assert len(chosen) == 1
    np.testing.assert_array_equal(weights > 0, bucket == chosen[0])
    scores = np.asarray(cohort.scores["krum_score"])
    for own in range(5):
        assert len(set(scores[bucket == own])) == 1


@pytest.mark.slow  # traces every rule
@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_every_rule_has_them_in_front_or_refuses(name):
    stages = {key: STAGES[key].factory() for key in ("nnm", "bucketing")}
    try:
        defense = stages_before(name, stages, DEFENSES[name].factory())
    except InputError as error:
        assert f"config.defense.name = '{name}'" in str(error)
        assert name in ("flcert", "fedredefense", "fldetector")
        return
    tried = make_trial(name, defense)
    if name in ("drop", "flip"):
        return  # they need images of their own size
    jax.eval_shape(tried.step, *tried.start())
