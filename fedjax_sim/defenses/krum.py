"""Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 4. The variant `authors`
is what the released code of FedREDefense computes under that name (Xie, Fang, Gong,
ICML 2024).
"""

import math
from typing import Literal

from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    included,
    pipeline,
)
from fedjax_sim.defenses.multikrum import keep_lowest, with_krum_score
from fedjax_sim.defenses.parts.building import byzantine_count, stateless, told
from fedjax_sim.defenses.parts.checks import check_choice, check_quorum, check_range

Variant = Literal["paper", "authors"]


def krum(
    *,
    variant: Variant = "paper",
    num_byzantine: int | None = None,
    num_neighbors: int | None = None,
    whole_state: bool = False,
) -> Defense:
    """Returns Krum: the one client that is nearest to its k nearest others.

    With n the clients that still count, k = n - f - 2. The cohort gets the scores f32
    [n] `krum_score`, +inf for excluded clients.

    Args:
      variant: `paper` takes squared Euclidean distances; `authors` Euclidean ones, and
        one Byzantine client more than it is told.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_neighbors: k in place of n - f - 2. (The code of LeadFL, Zhu, Roos, Chen,
        ICML 2023, takes 5 of 10 clients.)
      whole_state: distances over the running statistics of BatchNorm too, as that code
        has it.

    Raises:
      InputError: for an unknown variant; by `init`, for numbers that the cohort cannot
        meet, among them the paper's condition 2f + 2 < n wherever f is used.
    """
    check_choice("variant", variant, Variant)

    def resolve(spec: FederationSpec) -> int:
        check_range("num_byzantine", num_byzantine, 0, spec.cohort_size)
        check_range("num_neighbors", num_neighbors, 1, spec.cohort_size - 1)
        if variant == "authors":
            return count_of_authors(spec, num_byzantine)
        f = byzantine_count(spec, num_byzantine)
        if num_neighbors is None:
            check_quorum(spec, f, 2, 3)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            k = included(cohort).sum() - f - 2
            k = k if num_neighbors is None else num_neighbors
            squared = variant == "paper"
            cohort = with_krum_score(
                cohort,
                context,
                num_neighbors=k,
                squared=squared,
                whole_state=whole_state,
            )
            return keep_lowest(cohort, "krum_score", 1)

        return pipeline(stateless(judge))

    return told(resolve, rule)


def count_of_authors(spec: FederationSpec, num_byzantine: int | None) -> int:
    """Returns f = ceil(r n) + 1 of FedREDefense's code, r the malicious share.

    The product is rounded as floats are: 0.28 * 100 is a little more than 28, so that
    f = 30 in the published tables. An explicit `num_byzantine` replaces ceil(r n).
    """
    if num_byzantine is None:
        share = spec.num_malicious / spec.population
        num_byzantine = math.ceil(share * spec.cohort_size)
    return num_byzantine + 1
