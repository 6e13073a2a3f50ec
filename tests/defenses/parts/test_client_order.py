"""The order of the clients changes no bit, also of scores equal up to rounding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.contracts.defense import Cohort, exclude, with_score
from fedjax_sim.defenses.bulyan import bulyan
from fedjax_sim.defenses.dnc import dnc
from fedjax_sim.defenses.krum import krum
from fedjax_sim.defenses.multikrum import multikrum
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.pipeline import pipeline

RULES = {
    "bulyan": bulyan(num_byzantine=2),
    "dnc": dnc(num_byzantine=3),
    "krum": krum(num_byzantine=3),
    "multikrum": multikrum(num_byzantine=3),
}


@pytest.mark.parametrize(
    "name",
    [
        "krum",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in RULES
            if name != "krum"
        ),
    ],
)
def test_scores_equal_up_to_rounding(one_round, name):
    rng = np.random.default_rng(0)
    # Twelve updates at equal distances, but for the last digits.
    updates = 3.0 + np.eye(12, 400) * (1 + 1e-6 * rng.normal(size=(12, 1)))
    ids = np.arange(12) * 3
    first, model = one_round(RULES[name], updates, ids=ids)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        judged, moved = one_round(RULES[name], updates[order], ids=ids[order])
        np.testing.assert_array_equal(judged.weights, first.weights[order])
        np.testing.assert_array_equal(moved.update, model.update)


def test_a_judge_sees_ascending_ids_and_the_caller_its_own_order(one_round):
    def judge(cohort: Cohort, context) -> Cohort:
        del context
        seen = with_score(cohort, "place", jnp.arange(5))
        return exclude(seen, jnp.arange(5) == 1)

    ids = jnp.array([7, 2, 9, 4, 5])
    judged, _ = one_round(
        pipeline(stateless(judge)), np.diag(ids).astype("f4"), ids=ids
    )
    np.testing.assert_array_equal(judged.client_ids, ids)
    np.testing.assert_array_equal(judged.scores["place"], [3, 0, 4, 1, 2])
    np.testing.assert_array_equal(judged.weights, [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(jnp.diagonal(judged.updates), ids)


def test_what_comes_in_order_is_not_copied(make_context):
    def one_round(rows, ids):
        cohort = Cohort(rows, jnp.zeros((9, 0)), jnp.ones(9), ids, ids, {})
        context = make_context(5000, 0)
        _, judged, result = pipeline().aggregate(((), ()), cohort, context)
        return judged.updates, result.update

    rows = jnp.ones((9, 5000))
    program = jax.jit(one_round, donate_argnums=0).lower(rows, jnp.arange(9)).compile()
    copies = re.findall(r"f32\[9,5000\]\S* copy\(", program.as_text())
    assert len(copies) == 2  # in the loops, which then do not run
