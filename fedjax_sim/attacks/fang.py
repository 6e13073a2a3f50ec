"""Fang's attack on coordinate-wise rules: beyond the mean, against its sign."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, checked
from fedjax_sim.numerics.columns import masked_mean, masked_std

Variant = Literal["random", "deterministic"]


@checked("attack")
def fang(
    *,
    variant: Variant = "random",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """The attack of Fang et al. on trimmed mean and median, partial knowledge.

    Fang, Cao, Jia, Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020, section 4. Mean and deviation come from the honest
    updates of the compromised clients. An attacker without a second one sends zeros
    (`random`) or its own update (`deterministic`), for there is no deviation.

    Args:
      variant: `random` draws every coordinate between 3 and 4 standard deviations
        (of a sample) beyond the mean, for each attacker on its own; `deterministic`
        takes 3.5 standard deviations (of the population) for all, as the code of
        FLDetector does (Zhang et al., KDD 2022).
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def craft(state, view):
        rows = view.malicious
        average = masked_mean(view.updates, rows)
        if variant == "deterministic":
            spread = masked_std(view.updates, rows, ddof=0)
            crafted = average - 3.5 * spread * jnp.sign(average)
            return state, known_updates.sent_by_all(crafted, view)
        spread = masked_std(view.updates, rows, ddof=1)
        crafted = known_updates.draw_rows(
            view,
            lambda key: beyond_the_mean(
                average, spread, jax.random.uniform(key, average.shape)
            ),
        )
        return state, jnp.where(rows.sum() > 1, crafted, 0.0)

    return Attack(
        knowledge=("own_updates",),
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


def beyond_the_mean(mean: Array, std: Array, draws: Array) -> Array:
    """Returns f32 [d]: 3 to 4 deviations beyond the mean, against its sign.

    Args:
      mean, std: f32 [d].
      draws: f32 [d], uniform in [0, 1).
    """
    # Draws count from the lower end of the interval on either side.
    above = mean + (3.0 + draws) * std
    below = mean - (4.0 - draws) * std
    return jnp.where(mean < 0, above, jnp.where(mean > 0, below, 0.0))


ENTRY = Entry(
    fang,
    paper="Fang et al., USENIX Security 2020",
)
