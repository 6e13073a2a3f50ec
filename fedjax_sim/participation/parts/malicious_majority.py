"""How often a round's cohort holds a malicious majority.

Syros et al. 2025 (DROP), section 4.2, eq. 6 and Appendix A. Clients are drawn without
replacement, so the number of malicious ones is hypergeometric. The paper models it as
binomial. Chernoff's inequality bounds its tail from above by (4 rho (1 - rho))^(n/2);
the paper prints one minus this as a *lower* bound on the tail, which it is not: for
N = 100, rho = 0.4 and n = 20 that is 0.34, where the exact probability of at least ten
is 0.221 (of more than ten, 0.102).
"""

import math

import numpy as np


def majority_probability(
    population: int, num_malicious: int, cohort_size: int, *, strict: bool = True
) -> float:
    """Returns the exact probability of a malicious majority in a uniform cohort.

    Args:
      population, num_malicious, cohort_size: N, M, n.
      strict: more than n / 2; otherwise at least n / 2.
    """
    half = cohort_size / 2
    least = math.floor(half) + 1 if strict else math.ceil(half)
    fewest = max(0, cohort_size - (population - num_malicious))
    most = min(cohort_size, num_malicious)
    if least > most:
        return 0.0
    # Hypergeometric weights relative to the mode, each from its neighbour: nothing
    # overflows, and SciPy's distributions take longer to import than all else here.
    k = np.arange(fewest, most, dtype=float)
    benign_left = population - num_malicious - cohort_size + k + 1
    ratios = (num_malicious - k) * (cohort_size - k) / ((k + 1) * benign_left)
    mode = int((ratios >= 1).sum())
    below = np.cumprod(1 / ratios[:mode][::-1])[::-1]
    weights = np.concatenate([below, [1.0], np.cumprod(ratios[mode:])])
    return float(weights[max(least - fewest, 0) :].sum() / weights.sum())


def chernoff_bound(population: int, num_malicious: int, cohort_size: int) -> float:
    """Returns (4 rho (1 - rho))^(n/2) for rho = M / N below one half.

    An upper bound on the probability of at least n / 2 malicious clients.
    """
    rho = num_malicious / population
    return (4.0 * rho * (1.0 - rho)) ** (cohort_size / 2)


def printed_bound(population: int, num_malicious: int, cohort_size: int) -> float:
    """Returns 1 - (4 rho (1 - rho))^(n/2), eqs. 6 and 14 as printed: no bound."""
    return 1.0 - chernoff_bound(population, num_malicious, cohort_size)
