"""What the code of LeadFL calls Bulyan: a mean of the second to fourth Krum scores.

Zhu, Roos, Chen, "LeadFL: Client Self-Defense against Model Poisoning in Federated
Learning", ICML 2023: its released code. It shares no step with Bulyan.
"""

import jax.numpy as jnp

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    Stage,
    exclude,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Count, Natural, checked
from fedjax_sim.defenses.krum import with_krum_score
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import ranks


@checked("defense")
def bulyan_leadfl(
    *,
    num_neighbors: Count = 6,
    rank_start: Natural = 1,
    rank_stop: Count = 4,
    whole_state: bool = False,
) -> Defense:
    """Returns the mean of the clients of ranks rank_start..rank_stop-1.

    Clients are ranked by the score `krum_score` f32 [n], the sum of the squared
    distances to their nearest others. With few clients left the last ranks count.

    Args:
      num_neighbors: nearest others whose distances are summed; the code fixes 6 for ten
        clients.
      rank_start: first rank that counts, from 0; the code discards the best client.
      rank_stop: one past the last rank that counts.
      whole_state: distances over the running statistics of BatchNorm too, as coded.

    Raises:
      InputError: an option outside its range; by `init`, counts that the cohort cannot
        meet.
    """

    def init(spec: FederationSpec) -> tuple[()]:
        n = spec.cohort_size
        check_range("defense", "num_neighbors", num_neighbors, 1, n - 1)
        check_range("defense", "rank_stop", rank_stop, 1, n)
        check_range("defense", "rank_start", rank_start, 0, rank_stop - 1)
        return ()

    def apply(
        state: tuple[()], cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], Cohort]:
        cohort, scores = with_krum_score(
            cohort, context, num_neighbors=num_neighbors, whole_state=whole_state
        )
        mask = included(cohort)
        rank = ranks(scores, mask, cohort.client_ids)
        first = jnp.minimum(rank_start, jnp.maximum(mask.sum() - 1, 0))
        return state, exclude(cohort, (rank < first) | (rank >= rank_stop))

    return pipeline(Stage(init, apply))


ENTRY = Entry(
    bulyan_leadfl,
    paper="released code of Zhu et al., ICML 2023 (LeadFL)",
    weighs=True,
)
