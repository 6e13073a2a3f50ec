"""DROPlet's parts alone, and in front of another rule: three rounds by hand."""

import jax
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.drop import drop
from fedjax_sim.defenses.droplet import droplet

# Client 4 is far away in the first round and like the others afterwards.
NEAR = np.array([[1.0, 0.0], [1.1, 0.0], [0.9, 0.1], [1.0, 0.2], [1.0, 0.1]])
FAR = NEAR + np.array([[0.0, 0.0]] * 4 + [[50.0, 50.0]])
ROUNDS = (FAR, NEAR, NEAR)


def play(defense, make_cohort, make_context, make_spec):
    """Whether client 4 counts in each round, and the updates."""
    state = defense.init(make_spec(5, num_params=2))
    aggregate = jax.jit(defense.aggregate)
    kept, updates = [], []
    for r, rows in enumerate(ROUNDS):
        cohort = make_cohort(rows)
        state, judged, result = aggregate(state, cohort, make_context(2, round_=r + 1))
        kept.append(bool(judged.weights[4] > 0))
        updates.append(np.asarray(result.update))
    return kept, updates


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # Flagged; owes 1, 0.5 after a clean round.
        ({}, [False, False, None]),
        # Judged anew in each round.
        ({"monitoring": False}, [False, None, None]),
        # Its first round passes, its past keeps it out afterwards.
        ({"clustering": False}, [True, False, None]),
        ({"clustering": False, "monitoring": False}, [True, True, True]),
    ],
)
def test_what_each_part_does(parts, expected, make_cohort, make_context, make_spec):
    kept, _ = play(droplet(**parts), make_cohort, make_context, make_spec)
    for found, wanted in zip(kept, expected, strict=True):
        assert wanted is None or found == wanted


def test_another_rule_aggregates_who_remains(make_cohort, make_context, make_spec):
    _, updates = play(droplet(base="median"), make_cohort, make_context, make_spec)
    np.testing.assert_allclose(updates[0], np.median(FAR[:4], axis=0), rtol=1e-6)
    _, means = play(droplet(), make_cohort, make_context, make_spec)
    np.testing.assert_allclose(means[0], FAR[:4].mean(0), rtol=1e-6)


def test_distillation_alone_judges_nobody(make_cohort, make_context):
    defense = drop(clustering=False, monitoring=False)
    cohort, context = make_cohort(FAR), make_context(2)
    _, judged, result = defense.aggregate(((), ()), cohort, context)
    assert (judged.weights > 0).all()
    np.testing.assert_allclose(result.update, FAR.mean(0), rtol=1e-6)


def test_a_ban_needs_the_monitoring():
    with pytest.raises(InputError, match=r"needs config\.defense\.monitoring = True"):
        droplet(monitoring=False, blacklist_threshold=2.0)
