"""Fang's attack on Krum: the longest step against the trend that Krum still picks."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, CraftView, Knowledge
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, checked
from fedjax_sim.numerics.columns import masked_mean
from fedjax_sim.numerics.distances import squared_distances

Form = Literal["partial", "analytic", "full"]

_KNOWLEDGE: dict[Form, tuple[Knowledge, ...]] = {
    "partial": ("own_updates", "aggregation_rule"),
    "analytic": ("benign_updates", "aggregation_rule"),
    "full": ("own_updates", "benign_updates", "aggregation_rule"),
}


@checked("attack")
def fang_krum(
    *, form: Form = "partial", start_round: Count = 1, end_round: Count | None = None
) -> Attack:
    """The attack of Fang et al. on Krum: all attackers send -lambda s.

    Fang, Cao, Jia, Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020, section 4. s in {-1, 0, 1}^d is the trend of the
    updates that the attacker knows; lambda is halved until a simulated Krum picks a
    crafted vector, or a bound is passed (then the last lambda is used). The small
    offsets between attackers of the original are left out, as in all public code.

    Args:
      form: what is known and simulated, with q attackers and n clients:
        `partial` (code of FLDetector, Zhang et al. 2022): the honest updates of the
        compromised clients stand for the cohort, joined by 1, 2, ... q-1 crafted ones;
        s is the sign of their mean. One attacker alone sends zeros.
        `analytic` (code of Shejwalkar and Houmansadr 2021): the benign updates, joined
        by q crafted ones; s is the sign of their mean, lambda starts at the bound of
        Theorem 1.
        `full` (code of FLDetector): crafted updates in place of the compromised ones;
        s is the sign of what Krum picks among all honest updates.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """
    search = {"partial": _partial, "analytic": _analytic, "full": _full}[form]

    def craft(state, view):
        scale, trend = search(view)
        return state, known_updates.sent_by_all(-scale * trend, view)

    return Attack(
        knowledge=_KNOWLEDGE[form],
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


class _Neighbors(NamedTuple):
    """Squared distances from each row to the other known rows, nearest first."""

    rows: Array  # bool [n], the known ones
    squared: Array  # f32 [n, n], +inf beyond the other known rows
    sums: Array  # f32 [n, n], of the 0, 1, ... n-1 nearest


def _neighbors(updates: Array, rows: Array) -> _Neighbors:
    others = rows[:, None] & rows[None, :] & ~jnp.eye(len(rows), dtype=bool)
    squared = jnp.sort(jnp.where(others, squared_distances(updates), jnp.inf), axis=1)
    sums = jnp.cumsum(squared, axis=1)
    sums = jnp.concatenate([jnp.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
    return _Neighbors(rows, squared, sums)


class _Simulation(NamedTuple):
    """Krum on known rows and equal crafted vectors -lambda s."""

    known: _Neighbors
    norms: Array  # f32 [n], squared norms of the known rows
    along: Array  # f32 [n], their inner products with s
    trend_norm: Array  # f32 [], squared norm of s

    def picks_crafted(
        self,
        scale: Array,
        copies: Array,
        num_neighbors: Array,
        *,
        ties: bool,
    ) -> Array:
        """Returns bool []: Krum chooses one of `copies` vectors -scale s.

        All crafted vectors are equal, so a score needs no simulated rows: of its
        nearest neighbours, the crafted ones are inserted into the sorted known ones.

        Args:
          scale: f32 [], lambda.
          copies: i32 [], number of crafted vectors.
          num_neighbors: i32 [], at most the number of other vectors.
          ties: whether a crafted vector wins against a known one of the same score.
        """
        rows, nearest, sums = self.known
        n = len(rows)
        squared = self.norms + 2 * scale * self.along + scale**2 * self.trend_norm
        squared = jnp.where(rows, jnp.maximum(squared, 0.0), jnp.inf)
        closer = (nearest < squared[:, None]).sum(1)
        inserted = jnp.clip(num_neighbors - closer, 0, copies)
        others = jnp.clip(num_neighbors - inserted, 0, n - 1)
        from_known = jnp.take_along_axis(sums, others[:, None], axis=1)[:, 0]
        from_crafted = jnp.where(inserted > 0, inserted * squared, 0.0)
        known = jnp.where(rows, from_known + from_crafted, jnp.inf)
        # A crafted vector finds its own kind at distance 0 first.
        rest = jnp.maximum(num_neighbors - (copies - 1), 0)
        counted = jnp.arange(n) < rest
        crafted = jnp.where(counted, jnp.sort(squared), 0.0).sum()
        return crafted <= known.min() if ties else crafted < known.min()


def _simulation(updates: Array, rows: Array, trend: Array) -> _Simulation:
    updates = jnp.where(rows[:, None], updates, 0.0)
    return _Simulation(
        known=_neighbors(updates, rows),
        norms=jnp.square(updates).sum(1),
        along=(updates * trend[None]).sum(1),
        trend_norm=jnp.square(trend).sum(),
    )


def _halve(accepts, start: Array, limit: float) -> Array:
    """Returns the first of start, start / 2, ... that is accepted or below `limit`."""
    return lax.while_loop(
        lambda scale: ~accepts(scale) & (scale > limit),
        lambda scale: scale / 2,
        start,
    )


def _partial(view: CraftView) -> tuple[Array, Array]:
    rows, count = view.malicious, view.malicious.sum()
    trend = jnp.sign(masked_mean(view.updates, rows))
    simulation = _simulation(view.updates, rows, trend)
    num_neighbors = jnp.maximum(count - 2, 1)

    def accepts(scale, copies):
        return simulation.picks_crafted(scale, copies, num_neighbors, ties=False)

    def more_copies(search):
        copies, _ = search
        scale = _halve(lambda s: accepts(s, copies + 1), jnp.float32(1), 2e-5)
        return copies + 1, scale

    def unsettled(search):
        copies, scale = search
        return (copies < count - 1) & ((copies == 0) | ~accepts(scale, copies))

    _, scale = lax.while_loop(unsettled, more_copies, (jnp.int32(0), jnp.float32(0)))
    return scale, trend


def _analytic(view: CraftView) -> tuple[Array, Array]:
    rows = known_updates.known_rows(view, "benign")
    count = view.malicious.sum()
    trend = jnp.sign(masked_mean(view.updates, rows))
    simulation = _simulation(view.updates, rows, trend)
    start = _lambda_bound(view.updates, simulation.known, count)
    # The reference counts the distance of a client to itself among the neighbours.
    num_neighbors = jnp.maximum(rows.sum() - 3, 1)

    def accepts(scale):
        return simulation.picks_crafted(scale, count, num_neighbors, ties=True)

    # The reference never tries a lambda below 1e-5.
    return _halve(accepts, start, 2e-5), trend


def _lambda_bound(updates: Array, benign: _Neighbors, count: Array) -> Array:
    """Returns the largest lambda that Krum may pick (Theorem 1), f32 [].

    Args:
      updates: f32 [n, d].
      benign: distances between the benign clients.
      count: i32 [], attackers.
    """
    rows, squared, _ = benign
    n, d = updates.shape
    summed = jnp.arange(n)[None] < rows.sum() - 2 - count
    sums = jnp.where(summed, jnp.sqrt(squared), 0.0).sum(1)
    tightest = jnp.where(rows, sums, jnp.inf).min()
    farthest = jnp.linalg.norm(known_updates.centered(updates, rows), axis=1).max()
    first = tightest / jnp.maximum(rows.sum() - count - 1, 1)
    return jnp.where(rows.any(), (first + farthest) / jnp.sqrt(float(d)), 0.0)


def _full(view: CraftView) -> tuple[Array, Array]:
    count = view.malicious.sum()
    num_neighbors = jnp.maximum(view.present.sum() - count - 2, 1)
    cohort = _neighbors(view.updates, view.present)
    scores = jnp.where(view.present, cohort.sums[:, num_neighbors], jnp.inf)
    # Krum's choice; the smaller client id wins a tie.
    chosen = jnp.lexsort((view.client_ids, scores))[0]
    trend = jnp.sign(view.updates[chosen])
    benign = known_updates.known_rows(view, "benign")
    simulation = _simulation(view.updates, benign, trend)

    def accepts(scale):
        return simulation.picks_crafted(scale, count, num_neighbors, ties=True)

    return _halve(accepts, jnp.float32(1), 1e-5), trend


ENTRY = Entry(
    fang_krum,
    paper="Fang et al., USENIX Security 2020",
)
