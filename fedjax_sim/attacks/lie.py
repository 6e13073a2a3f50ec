"""A Little Is Enough: a small shift that hides in the spread of the updates."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.known_updates import Known
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, AttackSpec
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Traced, checked
from fedjax_sim.numerics.columns import masked_mean, masked_std


@checked("attack")
def lie(
    *,
    z: Traced[float] | None = None,
    knowledge: Known = "compromised",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """A Little Is Enough: every attacker sends mean - z std (of the population).

    Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For
    Distributed Learning", NeurIPS 2019, algorithm 3.

    Args:
      z: standard deviations of the shift; by default z_max of the round, see
        `max_shift`.
      knowledge: the updates that mean and deviation are taken from: those of the
        compromised clients (the paper), or of all benign clients (an omniscient
        attacker).
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window; by `init`, attackers
        that are the majority of the population, for which z_max is not defined.
    """

    def init(spec: AttackSpec):
        population, attackers = len(spec.partition.counts), len(spec.malicious_ids)
        if z is None and attackers >= population // 2 + 1:
            raise InputError(
                f"config.attack.z = None is not defined for {attackers} malicious of "
                f"{population} clients, a majority; give a number"
            )
        return ()

    def craft(state, view):
        rows = known_updates.known_rows(view, knowledge)
        shift = max_shift(view.present.sum(), view.malicious.sum()) if z is None else z
        crafted = masked_mean(view.updates, rows)
        crafted -= shift * masked_std(view.updates, rows, ddof=0)
        return state, known_updates.sent_by_all(crafted, view)

    return Attack(
        knowledge=known_updates.declared(knowledge),
        init=init,
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


@compiled()
def max_shift(num_clients: Array, num_attackers: Array) -> Array:
    """Returns z_max f32 []: the shift that s benign clients still exceed.

    s = floor(p / 2 + 1) - q supporters make a majority of p clients with q attackers;
    z_max = Phi^-1((p - q - s) / (p - q)). In rounds where the share is 0 or 1, or the
    attackers are the majority, the share is kept half a client away from 0 and 1.
    """
    benign = jnp.maximum(num_clients - num_attackers, 1)
    supporters = num_clients // 2 + 1 - num_attackers
    margin = 0.5 / benign
    share = (num_clients - num_attackers - supporters) / benign
    return norm.ppf(jnp.clip(share, margin, 1 - margin))


ENTRY = Entry(
    lie,
    paper="Baruch et al., NeurIPS 2019",
)
