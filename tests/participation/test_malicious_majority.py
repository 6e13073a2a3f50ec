"""The probability of a malicious majority, against the numbers of the paper."""

from math import comb

import pytest
from scipy.stats import hypergeom

from fedjax_sim.participation.parts.malicious_majority import (
    chernoff_bound,
    majority_probability,
    printed_bound,
)


@pytest.mark.parametrize(
    ("population", "malicious", "cohort", "expected"),
    [(50, 20, 25, 0.074), (100, 40, 50, 0.012), (150, 60, 30, 0.073), (50, 10, 25, 0)],
)
def test_probabilities_of_the_settings_of_drop(population, malicious, cohort, expected):
    found = majority_probability(population, malicious, cohort)
    assert found == pytest.approx(expected, abs=6e-4)


def test_example_of_drop_and_its_printed_bound():
    """N = 100, 40 % malicious, n = 20: about 0.34 is printed."""
    assert majority_probability(100, 40, 20) == pytest.approx(0.102, abs=5e-4)
    at_least_half = majority_probability(100, 40, 20, strict=False)
    assert at_least_half == pytest.approx(0.221, abs=5e-4)
    # What is printed as a lower bound lies above.
    assert printed_bound(100, 40, 20) == pytest.approx(0.335, abs=5e-4)
    assert at_least_half < printed_bound(100, 40, 20) < chernoff_bound(100, 40, 20)


@pytest.mark.parametrize("cohort", [1, 2, 5, 6])
def test_probabilities_against_counting_all_cohorts(cohort):
    population, malicious = 11, 4
    ways = [
        comb(malicious, k) * comb(population - malicious, cohort - k)
        for k in range(cohort + 1)
    ]
    total = comb(population, cohort)
    more = sum(w for k, w in enumerate(ways) if 2 * k > cohort) / total
    least = sum(w for k, w in enumerate(ways) if 2 * k >= cohort) / total
    args = (population, malicious, cohort)
    assert majority_probability(*args) == pytest.approx(more)
    assert majority_probability(*args, strict=False) == pytest.approx(least)
    assert chernoff_bound(*args) >= least - 1e-12


@pytest.mark.parametrize(
    "args",
    [
        (100_000, 20_000, 50),
        (100_000, 45_000, 1000),
        (10_000_000, 4_900_000, 2000),
        (20, 0, 5),
        (20, 20, 5),
        (20, 12, 20),
        (20, 9, 20),
        (1, 1, 1),
        (1000, 999, 500),
    ],
)
def test_probabilities_against_scipy(args):
    population, malicious, cohort = args
    expected = hypergeom.sf(cohort // 2, population, malicious, cohort)
    assert majority_probability(*args) == pytest.approx(expected, rel=1e-9)
