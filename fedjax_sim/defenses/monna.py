"""MoNNA: the mean of the updates nearest to a trusted one.

Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning
with Linear Gradient Overhead", ICML 2023, Algorithm 1 (m): there every node averages
the n - f vectors nearest to its own.
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RootRequest,
    RoundContext,
    included,
    root_of,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.core.errors import InputError, check_range
from fedjax_sim.core.options import Count, Natural, Traced, checked
from fedjax_sim.defenses.parts.building import stateless, with_count
from fedjax_sim.defenses.parts.byzantine import byzantine_count, check_quorum
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.ranking import keep_lowest
from fedjax_sim.numerics.common_part import without_noise
from fedjax_sim.numerics.distances import in_float32, row_lengths

Reference = Literal["root", "client"]


@checked("defense")
def monna(
    *,
    reference: Reference = "root",
    num_byzantine: Traced[Natural] | None = None,
    num_samples: Count = 100,
    reference_client: Natural = 0,
) -> Defense:
    """Returns the mean of the n - f updates nearest to a reference.

    n are the clients that count. Score: `distance` f32 [n], to the reference. "(m)"
    above: the number in the paper is from memory.

    Args:
      reference: `root`: each round the server trains on its own samples as FLTrust's
        does; its update is not averaged. `client`: the update of one client, which is
        trusted and averaged with the others (byzfl 0.0.11 trusts the first one).
      num_byzantine: f; by default the malicious clients to expect in a cohort (an
        oracle: a real server has to guess it).
      num_samples: clean samples of the server, for `root`.
      reference_client: id of the trusted client; in rounds without it the smallest id
        that takes part is trusted.

    Raises:
      InputError: an option outside its range; by `init`, 2f clients or fewer.
    """

    def resolve(spec: FederationSpec) -> int:
        check_range("defense", "num_byzantine", num_byzantine, 0, spec.cohort_size)
        check_range(
            "defense", "reference_client", reference_client, 0, spec.population - 1
        )
        f = byzantine_count(spec, num_byzantine)
        check_quorum(spec, f, 2, 1)
        return f

    def rule(f: Array) -> Defense:
        def judge(cohort: Cohort, context: RoundContext) -> Cohort:
            if reference == "root":
                model = GlobalModel(context.global_params, context.global_buffers)
                own = root_of(context).train(model, context.key).params
                trusted = own - context.global_params
                return keep_nearest(cohort, trusted, f)
            row = _row_of(cohort, reference_client)
            itself = jnp.arange(len(cohort.updates)) == row
            return keep_nearest(cohort, cohort.updates[row], f, itself)

        return pipeline(stateless(judge))

    request = RootRequest(num_samples) if reference == "root" else None
    return with_count(resolve, rule)._replace(root=request)


def keep_nearest(
    cohort: Cohort, reference: Array, f: Array | int, itself: Array | None = None
) -> Cohort:
    """Keeps the n - f clients nearest to `reference` f32 [d]; ties by client id.

    `itself` bool [n] is true of the row that is the reference, if one is.
    """
    mask = included(cohort)
    halves = in_float32(row_lengths(cohort.updates, reference, itself))
    halves = without_noise(jnp.where(mask, halves, 0.0))
    cohort = with_score(cohort, "distance", jnp.where(mask, 2.0 * halves, jnp.inf))
    f = jnp.minimum(f, (mask.sum() - 1) // 2)
    return keep_lowest(cohort, halves, mask.sum() - f)


def _row_of(cohort: Cohort, client: int) -> Array:
    """The row of a client, or of the smallest id where it does not count."""
    order = jnp.lexsort(
        (cohort.client_ids, cohort.client_ids != client, ~included(cohort))
    )
    return order[0]


def needs_one_reference(config: Config) -> None:
    """Refuses a trusted client where the server's samples are the reference."""
    options = config.defense.options
    if options["reference"] == "root" and options["reference_client"] != 0:
        raise InputError(
            f"config.defense.reference_client = {options['reference_client']} belongs "
            "to config.defense.reference = 'client'; with 'root' nobody is trusted"
        )


ENTRY = Entry(
    monna,
    paper="Farhadkhani et al., ICML 2023",
    oracle="clean samples, taken from the training set; the number of malicious "
    "clients, unless num_byzantine is given",
    check=needs_one_reference,
    weighs=True,
)
