"""Rules find the outlier among updates that have a large part in common, in float32.

Whole models sent as updates, or a step that all clients make, leave nothing of the
differences in a matrix of products: it is known to 1e-7 of the common part's square.
"""

import numpy as np
import pytest

from fedjax_sim.defenses import DEFENSES
from fedjax_sim.testing.defense_trial import make_cohort, make_context, make_spec

CLIENTS, ODD, SIZE = 12, 7, 500

# Of a rule: the options under which it looks at distances of updates.
JUDGES = {
    "bulyan": {"num_byzantine": 1},
    "dnc": {"num_byzantine": 1},
    "droplet": {},
    "flame": {"features": "updates"},
    "iqr_filter": {},
    "krum": {"num_byzantine": 1},
    "mda": {"num_byzantine": 1},
    "multikrum": {"num_byzantine": 1},
    "multikrum iterative": {"num_byzantine": 1, "variant": "iterative"},
    "prodigy": {"num_byzantine": 1},
}


def updates() -> np.ndarray:
    """Rows of norm 2000 that differ by 0.02, one of them by ten times as much."""
    rng = np.random.default_rng(3)
    common = 100 * rng.normal(size=SIZE)
    own = 1e-3 * rng.normal(size=(CLIENTS, SIZE))
    own[ODD] *= 10
    return (common + own).astype(np.float32)


# They look at what Krum looks at, or once more.
ALIKE = {"mda", "multikrum", "multikrum iterative"}


@pytest.mark.parametrize(
    "judge",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ())
        for name in sorted(JUDGES)
    ],
)
def test_the_odd_update_is_left_out(judge):
    defense = DEFENSES[judge.split()[0]].factory(**JUDGES[judge])
    cohort = make_cohort(updates())
    spec = make_spec(CLIENTS, CLIENTS, 1, num_params=SIZE)
    state = defense.init(spec)
    _, judged, result = defense.aggregate(state, cohort, make_context(SIZE))
    kept = np.asarray(judged.weights) > 0
    assert not kept[ODD]
    mean = updates().astype(float)[kept].mean(0)
    if judge != "bulyan":  # a mean around the median
        weights = np.asarray(judged.weights, float)
        mean = weights @ updates().astype(float) / weights.sum()
    np.testing.assert_allclose(result.update, mean, atol=2e-3)
