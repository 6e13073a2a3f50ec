"""Activity monitoring, and DROplet as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import exclude, with_score
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.droplet import droplet
from fedjax_sim.defenses.parts.activity_monitor import activity_monitor

NOBODY: set[int] = set()
USUAL = {"penalty": 1.0, "reward": 0.5, "blacklist_threshold": None}


@pytest.fixture
def play(make_cohort, make_context, make_spec):
    """Returns a function that plays rounds of (ids present, suspicious, excluded).

    It returns the penalties of the population after each round and the survivors.
    """

    def run(rounds, population=4, **arguments):
        stage = activity_monitor(**{**USUAL, **arguments})
        state = stage.init(make_spec(3, population=population))
        apply = jax.jit(stage.apply)
        penalties, kept = [], []
        for ids, suspicious, excluded in rounds:
            cohort = make_cohort(np.zeros((len(ids), 2)), ids)
            flags = jnp.asarray([i in suspicious for i in ids])
            cohort = exclude(with_score(cohort, "suspicious", flags), flags)
            cohort = exclude(cohort, jnp.asarray([i in excluded for i in ids]))
            state, cohort = apply(state, cohort, make_context(2))
            penalties.append(state.penalties.tolist())
            kept.append(np.asarray(ids)[np.asarray(cohort.weights) > 0].tolist())
        return penalties, kept

    return run


def test_one_flag_costs_two_clean_rounds(play):
    present = [0, 1, 2]
    rounds = [(present, {1}, NOBODY)] + [(present, NOBODY, NOBODY)] * 3
    penalties, kept = play(rounds)
    assert [p[1] for p in penalties] == [1.0, 0.5, 0.0, 0.0]
    assert kept == [[0, 2], [0, 2], [0, 1, 2], [0, 1, 2]]


def test_a_threshold_of_the_round_lets_small_debts_pass(play):
    """Algorithm 1 with tau_b = 1: out while it owes 1, in again at 0.5."""
    present = [0, 1, 2]
    rounds = [(present, {1}, NOBODY)] + [(present, NOBODY, NOBODY)] * 2
    assert play(rounds, tau_b=1.0)[1] == [[0, 2], [0, 1, 2], [0, 1, 2]]
    assert play(rounds, tau_b=0.5)[1] == [[0, 2], [0, 2], [0, 1, 2]]


def test_penalties_add_up_and_never_fall_below_zero(play):
    rounds = [([0, 1], {0}, NOBODY)] * 3 + [([0, 1], NOBODY, NOBODY)]
    penalties, _ = play(rounds)
    assert penalties == [[1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [2.5, 0, 0, 0]]


def test_only_clients_of_the_round_change(play):
    rounds = [([0, 1], {0}, NOBODY), ([2, 1], {2}, NOBODY), ([3, 1], NOBODY, NOBODY)]
    penalties, kept = play(rounds)
    assert penalties == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]
    assert kept == [[1], [1], [3, 1]]


def test_clients_excluded_for_another_reason_keep_their_penalty(play):
    rounds = [([0, 1], {0}, NOBODY), ([0, 1], NOBODY, {0}), ([0, 1], NOBODY, NOBODY)]
    penalties, kept = play(rounds)
    assert [p[0] for p in penalties] == [1.0, 1.0, 0.5]
    assert kept == [[1], [1], [1]]


def test_reward_defaults_and_numbers(play):
    rounds = [([0, 1], {0}, NOBODY), ([0, 1], NOBODY, NOBODY)]
    assert play(rounds, reward=None)[0][-1][0] == 0.0
    assert play(rounds, penalty=2.0, reward=0.25)[0][-1][0] == 1.75
    assert play(rounds, reward=0.0)[0][-1][0] == 1.0


def test_ban_is_for_good(play):
    rounds = [([0, 1], {0}, NOBODY)] * 2 + [([0, 1], NOBODY, NOBODY)] * 5
    penalties, kept = play(rounds, blacklist_threshold=2.0)
    assert penalties[-1][0] == 0.0
    assert kept[-1] == [1]
    assert play(rounds)[1][-1] == [0, 1]


def test_numbers_may_be_traced(make_cohort, make_context, make_spec):
    cohort = make_cohort([[0.0], [1], [50], [2]])

    @jax.jit
    def penalties(penalty, reward, threshold):
        defense = droplet(penalty=penalty, reward=reward, blacklist_threshold=threshold)
        state = defense.init(make_spec(4, population=5, num_params=1))
        state, _, _ = defense.aggregate(state, cohort, make_context(1))
        return state[0][1].penalties, defense.eligible(state)

    values, eligible = penalties(3.0, 0.5, 2.0)
    assert values.tolist() == [0, 0, 3, 0, 0]
    assert eligible.tolist() == [True, True, False, True, True]
    assert penalties(1.5, 0.5, 2.0)[1].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": 0}, "config.defense.penalty = 0 must be above 0"),
        ({"penalty": float("nan")}, "config.defense.penalty = nan must be above 0"),
        ({"reward": -0.5}, "config.defense.reward = -0.5 must be at least 0"),
        ({"blacklist_threshold": 0.0}, "blacklist_threshold = 0.0 must be above 0"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        droplet(**arguments)


# --- DROplet ---------------------------------------------------------------------


@pytest.fixture
def play_droplet(make_cohort, make_context, make_spec):
    """Returns a function from rounds of updates to judged cohorts and aggregates."""

    def run(rounds, **arguments):
        defense = droplet(**arguments)
        state = defense.init(make_spec(len(rounds[0]), population=8, num_params=1))
        aggregate = jax.jit(defense.aggregate)
        outcome = []
        for updates in rounds:
            state, cohort, result = aggregate(
                state, make_cohort(updates), make_context(1)
            )
            outcome.append((np.flatnonzero(cohort.weights).tolist(), result.update))
        return state, outcome

    return run


def test_droplet_averages_clients_that_owe_nothing(play_droplet):
    _, outcome = play_droplet(
        [
            [[0.0], [1], [50], [2]],  # row 2 is alone
            [[30.0], [1], [3], [2]],  # row 0 is alone, row 2 owes 0.5
            [[0.0], [1], [2], [40]],  # row 3 is alone, row 0 owes 0.5
        ]
    )
    assert [rows for rows, _ in outcome] == [[0, 1, 3], [1, 3], [1, 2]]
    assert [float(update[0]) for _, update in outcome] == [1.0, 1.5, 1.5]


def test_droplet_without_survivors_skips_the_round(play_droplet):
    alone = np.eye(4) * 100
    rounds = [[[x] for x in np.arange(4.0) + row] for row in alone]
    _, outcome = play_droplet(rounds, reward=0.125)
    assert outcome[-1][0] == []
    assert outcome[-1][1].tolist() == [0.0]


def test_droplet_penalises_non_finite_updates(play_droplet):
    state, outcome = play_droplet([[[0.0], [1], [50], [2], [np.nan]]])
    assert outcome[0][0] == [0, 1, 3]
    assert state[0][1].penalties.tolist() == [0, 0, 1, 0, 1, 0, 0, 0]


def test_droplet_sampling(play_droplet):
    assert droplet().eligible is None
    defense = droplet(blacklist_threshold=1.0)
    state, _ = play_droplet([[[0.0], [1], [50], [2]]], blacklist_threshold=1.0)
    assert defense.eligible(state).tolist() == [True, True, False] + [True] * 5
