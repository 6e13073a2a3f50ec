"""Bucketing: the rule sees means of a few random clients each.

Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
Bucketing", ICLR 2022, Algorithm 1.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    Cohort,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, checked
from fedjax_sim.defenses.parts.ranking import ranks
from fedjax_sim.numerics.distances import finite


@checked("defense")
def bucketing(*, size: Count = 2) -> Stage:
    """Returns the stage that replaces clients by means of random buckets of them.

    The clients that count are put in a random order, drawn anew in every round, and
    each `size` of them are a bucket; the last may be smaller. Its mean, in which all
    weigh the same, stands in the place of its first client, and the rule judges that
    one. All members get its verdict in the report. The number f of the rule stays: one
    bad client spoils one bucket. Score: `bucket` i32 [n], -1 for who is in none.

    Args:
      size: s, clients of a bucket; 1 changes nothing.

    Raises:
      InputError: an option outside its range.
    """

    def apply(state, cohort: Cohort, context: RoundContext):
        # A draw belongs to a client, not to its place in the cohort.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(context.key, cohort.client_ids)
        draws = jax.vmap(jax.random.uniform)(keys)
        place = ranks(draws, included(cohort), cohort.client_ids)
        return state, in_buckets(cohort, place, size)

    return Stage(lambda spec: (), apply, settle)


def in_buckets(cohort: Cohort, place: Array, size: int) -> Cohort:
    """Returns the cohort of buckets, each in the place of its first client.

    Args:
      cohort: of n clients.
      place: i32 [n], in the drawn order, from 0; those that do not count come last.
      size: of a bucket.
    """
    mask = included(cohort)
    bucket = jnp.where(mask, place // size, -1)
    same = (bucket[:, None] == bucket[None, :]) & mask[:, None] & mask[None, :]
    shares = same / jnp.maximum(same.sum(1, keepdims=True), 1)
    first = mask & (place % size == 0)
    # Each bucket counts once, also a smaller one.
    cohort = cohort._replace(
        updates=jnp.where(
            first[:, None], finite(shares @ cohort.updates), cohort.updates
        ),
        buffers=jnp.where(
            first[:, None], finite(shares @ cohort.buffers), cohort.buffers
        ),
        weights=first.astype(jnp.float32),
    )
    return with_score(cohort, "bucket", bucket)


def settle(given: Cohort, judged: Cohort) -> Cohort:
    """Gives all members of a bucket what the rule made of its first one.

    Args:
      given: what the stage gave the rule.
      judged: what the rule returned.
    """
    bucket, first = given.scores["bucket"], included(given)
    same = (bucket[:, None] == bucket[None, :]) & first[None, :]
    source = same.argmax(1)
    known = set(given.scores)
    scores = {
        key: value if key in known else value[source]
        for key, value in judged.scores.items()
    }
    whole = judged._replace(weights=judged.weights[source], scores=scores)
    return exclude(whole, bucket < 0)


ENTRY = Entry(
    bucketing,
    paper="Karimireddy, He, Jaggi, ICLR 2022",
)
