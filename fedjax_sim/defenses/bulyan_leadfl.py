"""What the code of LeadFL calls Bulyan: a mean of the second to fourth Krum scores.

Zhu, Roos, Chen, "LeadFL: Client Self-Defense against Model Poisoning in Federated
Learning", ICML 2023: its released code. It shares no step with Bulyan.
"""

import jax.numpy as jnp

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    FederationSpec,
    RoundContext,
    Stage,
    exclude,
    included,
    pipeline,
)
from fedjax_sim.defenses.multikrum import ranks, with_krum_score
from fedjax_sim.defenses.parts.checks import check_range


def bulyan_leadfl(
    *,
    num_neighbors: int = 6,
    rank_start: int = 1,
    rank_stop: int = 4,
    whole_state: bool = False,
) -> Defense:
    """Returns the mean of the clients of ranks rank_start..rank_stop-1.

    Clients are ranked by the score `krum_score` f32 [n], the sum of the squared
    distances to their nearest others. With few clients left the last ranks count.

    Args:
      num_neighbors: summed distances; the code fixes 6 for ten clients.
      rank_start: first rank, from 0; the code discards the best client.
      rank_stop: one past the last rank.
      whole_state: distances over the running statistics of BatchNorm too, as coded.

    Raises:
      InputError: by `init`, for counts that the cohort cannot meet.
    """

    def init(spec: FederationSpec) -> tuple[()]:
        check_range("num_neighbors", num_neighbors, 1, spec.cohort_size - 1)
        check_range("rank_stop", rank_stop, 1, spec.cohort_size)
        if isinstance(rank_stop, int):
            check_range("rank_start", rank_start, 0, rank_stop - 1)
        return ()

    def apply(
        state: tuple[()], cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], Cohort]:
        cohort = with_krum_score(
            cohort, context, num_neighbors=num_neighbors, whole_state=whole_state
        )
        mask = included(cohort)
        rank = ranks(cohort.scores["krum_score"], mask, cohort.client_ids)
        first = jnp.minimum(rank_start, jnp.maximum(mask.sum() - 1, 0))
        return state, exclude(cohort, (rank < first) | (rank >= rank_stop))

    return pipeline(Stage(init, apply))
