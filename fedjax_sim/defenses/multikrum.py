"""Multi-Krum: several clients of small Krum scores.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 5. The variant `authors` is
what the released code of DROP computes under that name (Syros et al. 2025, arXiv
2502.07011).
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext, included
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import InputError, check_range
from fedjax_sim.core.options import Count, Natural, Traced, checked
from fedjax_sim.defenses.krum import iterated_krum, with_krum_score
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import keep_lowest

Variant = Literal["paper", "authors", "iterative"]


@checked("defense")
def multikrum(
    *,
    variant: Variant = "paper",
    num_byzantine: Traced[Natural] | None = None,
    num_selected: Count | None = None,
    num_neighbors: Count | None = None,
    whole_state: bool = False,
) -> Defense:
    """Returns Multi-Krum: the mean of the clients nearest to their neighbours.

    These are the m clients whose distances to their k nearest others have the smallest
    sum. With n the clients that still count, k = n - f - 2 and m = n - f (at least 1).
    Score: `krum_score` f32 [n], +inf for excluded clients.

    Args:
      variant: `paper` takes squared Euclidean distances and f from the threat model;
        `authors` takes Euclidean distances and f = floor(n / 2); `iterative` is as
        `paper`, but selects n - 2f - 2 clients one after the other, each among those
        that are left (score `place`), as in the code of Shejwalkar and Houmansadr,
        NDSS 2021.
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_selected: m, clients that are averaged, in place of n - f; Krum is 1.
      num_neighbors: k, nearest others that count for a score, in place of n - f - 2.
      whole_state: distances over the running statistics of BatchNorm too (the code of
        LeadFL, Zhu, Roos, Chen, ICML 2023).

    Raises:
      InputError: an option outside its range or one that the variant would ignore; by
        `init`, numbers that the cohort cannot meet, among them the paper's condition
        2f + 2 < n wherever f is used.
    """
    if variant == "authors" and num_byzantine is not None:
        raise InputError(
            f"config.defense.num_byzantine = {num_byzantine} must be none: "
            "config.defense.variant = 'authors' always takes half of the cohort"
        )
    if variant == "iterative":
        for key, value in (
            ("num_selected", num_selected),
            ("num_neighbors", num_neighbors),
            ("whole_state", whole_state or None),
        ):
            if value is not None:
                raise InputError(
                    f"config.defense.{key} = {value} does not belong to "
                    "config.defense.variant = 'iterative', which takes both numbers "
                    "from num_byzantine and parameters alone"
                )
    # With both counts given f plays no part, and its condition none either.
    f_matters = variant != "authors" and (num_selected is None or num_neighbors is None)

    def resolve(spec: FederationSpec) -> int:
        n = spec.cohort_size
        f = byzantine_count(spec, num_byzantine)
        check_range("defense", "num_selected", num_selected, 1, n)
        check_range("defense", "num_neighbors", num_neighbors, 1, n - 1)
        check_range("defense", "num_byzantine", num_byzantine, 0, n)
        if f_matters:
            check_quorum(spec, f, 2, 3)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            if variant == "iterative":
                return iterated_krum(cohort, f, 2 * f + 2)
            n = included(cohort).sum()
            distrusted = f if variant == "paper" else n // 2
            k = n - distrusted - 2 if num_neighbors is None else num_neighbors
            m = n - distrusted if num_selected is None else num_selected
            cohort, scores = with_krum_score(
                cohort,
                context,
                num_neighbors=k,
                squared=variant == "paper",
                whole_state=whole_state,
            )
            return keep_lowest(cohort, scores, jnp.maximum(m, 1))

        return pipeline(stateless(judge))

    return with_count(resolve, rule)


ENTRY = Entry(
    multikrum,
    paper="Blanchard et al., NeurIPS 2017",
    oracle="the number of malicious clients, unless num_byzantine is given",
    weighs=True,
)
