"""Who takes part: distinct ascending ids, the promised counts, honest frequencies."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.participation.enforced import enforced
from fedjax_sim.participation.explicit import explicit
from fedjax_sim.participation.parts.replayed import replayed
from fedjax_sim.participation.periodic import periodic
from fedjax_sim.participation.uniform import uniform

ROUNDS = 4000


@cache
def sampler(schedule):
    return jax.jit(jax.vmap(schedule.sample, (0, 0, None, None)))


def cohorts(schedule, malicious, eligible=None, rounds=ROUNDS, seed=0):
    """Samples rounds 1, 2, ...; returns ids [rounds, n] and present [rounds, n]."""
    malicious = jnp.asarray(malicious)
    eligible = jnp.ones(malicious.shape, bool) if eligible is None else eligible
    keys = jax.random.split(jax.random.key(seed), rounds)
    ids, present = sampler(schedule)(
        keys, jnp.arange(1, rounds + 1), malicious, jnp.asarray(eligible)
    )
    assert ids.shape == present.shape == (rounds, schedule.cohort_size)
    return np.asarray(ids), np.asarray(present)


def is_malicious(population, count):
    return np.arange(population) < count


def assert_frequency(hits, probability, draws):
    """Five standard deviations of a binomial count."""
    allowed = 5 * (draws * probability * (1 - probability)) ** 0.5
    np.testing.assert_allclose(hits, draws * probability, atol=allowed)


def assert_distinct_and_ascending(ids):
    assert (np.diff(ids, axis=1) > 0).all()


def test_uniform_draws_every_client_equally_often():
    ids, present = cohorts(uniform(population=20, cohort_size=5), is_malicious(20, 6))
    assert present.all()
    assert_distinct_and_ascending(ids)
    assert_frequency(np.bincount(ids.ravel(), minlength=20), 5 / 20, ROUNDS)
    # Two given clients together: 5*4 / (20*19).
    for a, b in ((0, 1), (3, 17), (18, 19)):
        both = (ids == a).any(1) & (ids == b).any(1)
        assert_frequency(both.sum(), 20 / 380, ROUNDS)


def test_number_of_malicious_clients_is_hypergeometric():
    ids, _ = cohorts(uniform(population=10, cohort_size=4), is_malicious(10, 3))
    found = np.bincount((ids < 3).sum(1), minlength=5)
    # C(3, k) C(7, 4 - k) / C(10, 4)
    for count, ways in zip(found, (35, 105, 63, 7, 0), strict=True):
        assert_frequency(count, ways / 210, ROUNDS)


def test_same_key_same_cohort_other_key_other_cohort():
    schedule = uniform(population=50, cohort_size=10)
    first, _ = cohorts(schedule, is_malicious(50, 0), rounds=3)
    again, _ = cohorts(schedule, is_malicious(50, 0), rounds=3)
    other, _ = cohorts(schedule, is_malicious(50, 0), rounds=3, seed=1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()


def test_a_cohort_of_the_population_is_everyone():
    ids, present = cohorts(
        uniform(population=6, cohort_size=6), is_malicious(6, 2), rounds=5
    )
    assert present.all()
    assert (ids == np.arange(6)).all()


def test_only_eligible_clients_are_sampled():
    eligible = np.arange(20) % 2 == 0
    schedule = uniform(population=20, cohort_size=5)
    ids, present = cohorts(schedule, is_malicious(20, 4), eligible)
    assert present.all() and eligible[ids].all()
    assert_distinct_and_ascending(ids)
    hits = np.bincount(ids.ravel(), minlength=20)[::2]
    assert_frequency(hits, 5 / 10, ROUNDS)


SCARCE = {
    "uniform": uniform(population=10, cohort_size=5),
    "enforced": enforced(population=10, cohort_size=5, num_malicious=4),
    "periodic": periodic(
        population=10,
        cohort_size=5,
        num_malicious=4,
        period=1,
        burst=1,
        malicious_in_burst=2,
    ),
}


@pytest.mark.parametrize("eligible_ids", [[], [7], [1, 4, 7], [0, 1, 2, 3, 9]])
@pytest.mark.parametrize("name", SCARCE)
def test_fewer_eligible_than_asked_for_all_take_part(name, eligible_ids):
    population = 10
    malicious = is_malicious(population, 4)
    eligible = np.isin(np.arange(population), eligible_ids)
    ids, present = cohorts(SCARCE[name], malicious, eligible, rounds=50)
    assert_distinct_and_ascending(ids)
    groups = [(eligible, 5)]
    if name != "uniform":
        groups = [(eligible & malicious, 2), (eligible & ~malicious, 3)]
    for row, there in zip(ids, present, strict=True):
        taken = np.zeros(population, bool)
        taken[row[there]] = True
        assert not (taken & ~eligible).any()
        for group, asked in groups:
            assert (taken & group).sum() == min(asked, group.sum())


def test_enforced_counts_are_exact():
    malicious = is_malicious(20, 8)
    schedule = enforced(population=20, cohort_size=5, num_malicious=8)
    ids, present = cohorts(schedule, malicious)
    assert present.all()
    assert_distinct_and_ascending(ids)
    assert (malicious[ids].sum(1) == 2).all()
    hits = np.bincount(ids.ravel(), minlength=20)
    assert_frequency(hits[:8], 2 / 8, ROUNDS)
    assert_frequency(hits[8:], 3 / 12, ROUNDS)


def test_enforced_rounds_at_random_where_it_must():
    """9 % of 22 is 1.98: two, and one now and then; the mean is right."""
    population, size, attackers = 88, 22, 7  # 1.75 a round
    malicious = is_malicious(population, attackers)
    facts = {"population": population, "cohort_size": size}
    with pytest.raises(InputError, match="rounding = 'stochastic'"):
        enforced(**facts, num_malicious=attackers)
    schedule = enforced(**facts, num_malicious=attackers, rounding="stochastic")
    ids, present = cohorts(schedule, malicious)
    assert present.all()
    assert_distinct_and_ascending(ids)
    counts = malicious[ids].sum(1)
    assert set(counts) == {1, 2}
    assert_frequency(np.array([(counts == 2).sum()]), 0.75, ROUNDS)


@pytest.mark.parametrize("num_malicious", [0, 10])
def test_enforced_with_one_group_only(num_malicious):
    schedule = enforced(population=10, cohort_size=4, num_malicious=num_malicious)
    ids, present = cohorts(schedule, is_malicious(10, num_malicious), rounds=20)
    assert present.all()
    assert_distinct_and_ascending(ids)


def test_periodic_bursts_take_six_attackers_in_two_of_ten_rounds():
    malicious = is_malicious(100, 25)
    schedule = periodic(population=100, cohort_size=10, num_malicious=25)
    ids, present = cohorts(schedule, malicious, rounds=40)
    assert present.all()
    assert_distinct_and_ascending(ids)
    # The first two rounds of every ten hold six attackers.
    assert malicious[ids].sum(1).tolist() == [6, 6, 0, 0, 0, 0, 0, 0, 0, 0] * 4


def test_periodic_with_own_numbers():
    malicious = is_malicious(12, 3)
    schedule = periodic(
        population=12,
        cohort_size=4,
        num_malicious=3,
        period=3,
        burst=1,
        malicious_in_burst=3,
    )
    ids, _ = cohorts(schedule, malicious, rounds=9)
    assert malicious[ids].sum(1).tolist() == [3, 0, 0] * 3


def test_explicit_replays_again_and_again():
    schedule = replayed(population=6, schedule=np.array([[5, 0, 3], [1, 2, 4]]))
    ids, present = cohorts(schedule, is_malicious(6, 1), rounds=5)
    assert present.all()
    first, second = [0, 3, 5], [1, 2, 4]
    assert ids.tolist() == [first, second, first, second, first]


def test_explicit_leaves_out_who_is_not_eligible():
    schedule = replayed(population=4, schedule=np.array([[2, 1, 0]]))
    eligible = np.array([True, False, True, True])
    ids, present = cohorts(schedule, is_malicious(4, 0), eligible, rounds=1)
    assert ids.tolist() == [[0, 1, 2]]
    assert present.tolist() == [[True, False, True]]


PERIODIC = {"population": 20, "cohort_size": 5, "num_malicious": 6}


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (uniform, {"population": 4, "cohort_size": 5}, "clients_per_round = 5"),
        (uniform, {"population": 4, "cohort_size": 0}, "clients_per_round = 0"),
        (
            enforced,
            {"population": 10, "cohort_size": 5, "num_malicious": 3},
            r"5\*3/10",
        ),
        (
            enforced,
            {"population": 4, "cohort_size": 8, "num_malicious": 2},
            "clients_per_round = 8",
        ),
        (periodic, {**PERIODIC, "cohort_size": 21}, "clients_per_round = 21"),
        (periodic, {**PERIODIC, "burst": 11}, "burst = 11"),
        (periodic, {**PERIODIC, "burst": -1}, "burst = -1 must be at least 0"),
        (periodic, {**PERIODIC, "period": 0, "burst": 0}, "period = 0"),
        (periodic, {**PERIODIC, "malicious_in_burst": 6}, "malicious_in_burst = 6"),
        (periodic, {**PERIODIC, "malicious_in_burst": -1}, "malicious_in_burst = -1"),
        (
            periodic,
            {**PERIODIC, "num_malicious": 16, "malicious_in_burst": 5},
            "needs 5 benign clients",
        ),
        (replayed, {"population": 4, "schedule": np.array([1, 2])}, r"int64 \[2\]"),
        (replayed, {"population": 4, "schedule": np.array([[1.0, 2.0]])}, "float64"),
        (replayed, {"population": 4, "schedule": np.array([[0, 4]])}, "from 0 to 4"),
        (replayed, {"population": 4, "schedule": np.array([[-1, 0]])}, "from -1 to 0"),
        (
            replayed,
            {"population": 4, "schedule": np.array([[0, 1], [3, 3]])},
            "twice in round 2",
        ),
        (
            replayed,
            {"population": 2, "schedule": np.array([[0, 1, 2]])},
            "clients_per_round = 3",
        ),
        (replayed, {"population": 4, "schedule": np.zeros((0, 3), int)}, "schedule"),
        (replayed, {"population": 4, "schedule": np.zeros((3, 0), int)}, "between 1"),
    ],
)
def test_impossible_schedules_are_refused(make, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "an .npy file with an integer array"),
        (lambda file: np.save(file, np.zeros((3, 0), int)), "is empty"),
        (lambda file: np.savez(file, a=np.zeros(2)), "holds several arrays"),
        (lambda file: file.write(b"\x93NUMPY\x01\x00"), "an .npy file with an integer"),
    ],
)
def test_files_that_are_no_schedule(tmp_path, write, message):
    path = tmp_path / "schedule.npy"
    with open(path, "wb") as file:
        write(file)
    with pytest.raises(InputError, match=re.escape(f"{str(path)!r}")) as caught:
        explicit(population=6, cohort_size=2, schedule=str(path))
    assert message in str(caught.value) and "\n" not in str(caught.value)
