"""ARC, adaptive robust clipping: the longest updates are as long as the next one.

Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive Gradient Clipping for
Robust Federated Learning", 2024 (arXiv 2405.14432), Algorithm 2 (m).
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.contracts.defense import Cohort, RoundContext, Stage, included
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import check_range
from fedjax_sim.core.options import Natural, Traced, checked
from fedjax_sim.defenses.parts.byzantine import byzantine_count
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.numerics.distances import in_float32, row_lengths
from fedjax_sim.numerics.order_statistics import kth_smallest


@checked("defense")
def arc(*, num_byzantine: Traced[Natural] | None = None) -> Stage:
    """Returns the stage that clips the k longest updates to the (k + 1)-th longest.

    k = floor(2 (f / n) (n - f)), with n the clients that count; f is lowered to n - 1
    where those are fewer. Score: `clip_factor` f32 [n]. "(m)" above: the number in the
    paper is from memory.

    Args:
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).

    Raises:
      InputError: an option outside its range; by `init`, as many as the cohort.
    """

    def init(spec: FederationSpec) -> Array:
        n = spec.cohort_size
        check_range("defense", "arc_num_byzantine", num_byzantine, 0, n - 1)
        return clipped_counts(n)[jnp.asarray(byzantine_count(spec, num_byzantine))]

    def apply(
        counts: Array, cohort: Cohort, context: RoundContext
    ) -> tuple[Array, Cohort]:
        del context
        lengths, mask = row_lengths(cohort.updates), included(cohort)
        norms = in_float32(lengths)
        m = mask.sum()
        rank = m - 1 - counts[m]
        limit = kth_smallest(norms[:, None], mask, jnp.maximum(rank, 0))[0]
        return counts, shorten(cohort, clip_factors(lengths, limit))

    return Stage(init, apply)


def clipped_counts(n: int) -> Array:
    """Returns k for every f and number of clients up to n, i32 [n + 1, n + 1].

    In float64: a product just below a whole number must not be rounded up.
    """
    table = np.zeros((n + 1, n + 1), np.int32)
    for f in range(n + 1):
        for m in range(1, n + 1):
            own = min(f, m - 1)
            table[f, m] = int(2 * own / m * (m - own))
    return jnp.asarray(table)


ENTRY = Entry(
    arc,
    paper="Allouah et al. 2024, arXiv 2405.14432",
    oracle="the number of malicious clients, unless num_byzantine is given",
)
