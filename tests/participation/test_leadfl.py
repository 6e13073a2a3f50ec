"""LeadFL's published cohorts: bursts, forced rounds, and what cannot be drawn."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import build, jitted_rounds, start_state

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import resolve
from fedjax_sim.participation.leadfl import Mode, leadfl, leadfl_schedule
from fedjax_sim.participation.parts.malicious_clients import published_clients

PUBLISHED = {"population": 100, "cohort_size": 10, "num_malicious": 25, "rounds": 40}


USUAL = {"mode": "random", "offset": 100, "forced": False, "malicious_in_burst": None}


def schedule(**options):
    return leadfl_schedule(**{**PUBLISHED, **USUAL, **options})


def attackers(rows, population=100, count=25):
    """How many malicious clients each round has."""
    return np.isin(rows, published_clients(population, count)).sum(1)


def test_the_malicious_set_is_fixed_and_sorted():
    chosen = published_clients(100, 25)

    assert len(set(chosen)) == 25 and (np.diff(chosen) > 0).all()
    assert len(published_clients(100, 0)) == 0


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("forced", [False, True])
def test_clients_are_distinct_and_rounds_do_not_depend_on_their_number(mode, forced):
    rows = schedule(mode=mode, forced=forced)

    assert rows.shape == (40, 10)
    assert all(len(set(row)) == 10 for row in rows)
    assert rows.min() >= 0 and rows.max() < 100
    shorter = schedule(mode=mode, forced=forced, rounds=15)
    np.testing.assert_array_equal(shorter, rows[:15])


def test_bursts_of_the_report_and_of_the_code():
    phase = np.arange(40) % 10
    np.testing.assert_array_equal(
        attackers(schedule(mode="bursty")), np.where(phase < 2, 6, 0)
    )
    np.testing.assert_array_equal(
        attackers(schedule(mode="periodic")), np.where(phase < 5, 2, 0)
    )
    assert set(attackers(schedule(mode="consistent"))) == {2}
    assert set(attackers(schedule(mode="random_clients"))) == {0, 2, 5}
    np.testing.assert_array_equal(
        attackers(schedule(mode="bursty", malicious_in_burst=3)),
        np.where(phase < 2, 3, 0),
    )


@pytest.mark.parametrize("mode", get_args(Mode))
def test_forced_rounds_are_half_malicious_and_the_others_untouched(mode):
    plain, forced = schedule(mode=mode), schedule(mode=mode, forced=True)

    np.testing.assert_array_equal(attackers(forced)[[0, 10, 12]], [5, 5, 5])
    rest = np.setdiff1d(np.arange(40), [0, 10, 12])
    np.testing.assert_array_equal(forced[rest], plain[rest])
    # Benign clients come first: boosting and ties go by the place.
    malicious = np.isin(forced[12], published_clients(100, 25))
    np.testing.assert_array_equal(malicious, [False] * 5 + [True] * 5)


def test_rounds_of_random_cohorts_are_never_a_majority_with_the_first_offset():
    """As published: 2.5 on average, at most 5 of 10 in 80 rounds; 200 has one of 6."""
    first, second = (
        attackers(schedule(rounds=80, offset=offset)) for offset in (100, 200)
    )

    assert first.mean() == 2.5 and first.max() == 5
    assert (second >= 6).sum() == 1


def test_offsets_are_repetitions_moved_in_time():
    np.testing.assert_array_equal(schedule(offset=105)[:35], schedule(offset=100)[5:])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            {"mode": "bursty", "num_malicious": 5},
            "config.participation.malicious_in_burst = 6 must lie between 0 and 5",
        ),
        (
            {"mode": "bursty", "malicious_in_burst": 11},
            "config.participation.malicious_in_burst = 11 must lie between 0 and 10",
        ),
        (
            {"mode": "random_clients", "malicious_in_burst": 2},
            "config.participation.malicious_in_burst = 2 must be none",
        ),
        (
            {"mode": "periodic", "malicious_in_burst": -1},
            "config.participation.malicious_in_burst = -1",
        ),
        (
            {"cohort_size": 101},
            "config.participation.clients_per_round = 101 must lie between 0 and 100",
        ),
        (
            {"mode": "bursty", "cohort_size": 76},
            "config.participation.clients_per_round = 76 must lie between 0 and 75",
        ),
        (
            {"forced": True, "num_malicious": 4},
            "config.participation.clients_per_round = 10 must lie between 0 and 9",
        ),
        (
            {"forced": True, "num_malicious": 97},
            "config.participation.clients_per_round = 10 must lie between 0 and 6",
        ),
        ({"offset": -1}, "config.participation.offset = -1 must lie"),
        ({"offset": 2**32 - 1}, "config.participation.offset = 4294967295 must be at"),
    ],
)
def test_what_cannot_be_drawn(options, part):
    with pytest.raises(InputError) as problem:
        leadfl(**{**PUBLISHED, **options})

    assert str(problem.value).startswith(part)
    assert "\n" not in str(problem.value)


LEADFL = {
    "participation.name": "leadfl",
    "attack.malicious_clients": "leadfl",
    "partition.num_clients": 12,
    "attack.num_malicious": 4,
}


@pytest.mark.parametrize(
    "attack",
    [
        {},
        {"name": "none", "malicious_clients": "last"},
        {"name": "mpaf", "malicious_clients": "leadfl", "num_fake": 2},
    ],
)
def test_the_schedule_needs_its_own_malicious_clients(attack):
    with pytest.raises(InputError) as problem:
        resolve({"participation": {"name": "leadfl"}, "attack": attack})

    assert "config.participation.name = 'leadfl'" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_short_run():
    """Four rounds, bursts in the first two: the cohorts are those of the schedule."""
    options = {"mode": "bursty", "malicious_in_burst": 3, "offset": 200}
    built = build(
        {**LEADFL, **{f"participation.{key}": x for key, x in options.items()}}
    )
    expected = schedule(
        population=12, cohort_size=4, num_malicious=4, rounds=4, **options
    )
    run = jitted_rounds(built, 4)
    state, reports = run(start_state(built), built.inputs, jnp.int32(4))

    assert built.facts["malicious_clients"] == published_clients(12, 4).tolist()
    np.testing.assert_array_equal(reports.client_ids, np.sort(expected, axis=1))
    np.testing.assert_array_equal(reports.malicious.sum(1), [3, 3, 0, 0])
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))
