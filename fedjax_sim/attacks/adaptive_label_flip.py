"""Label flipping that knows FedREDefense and stays below its threshold.

Xie, Fang, Gong, ICML 2024, section 6.1 and Algorithm 3: the attacker trains on flipped
labels and scales the update as far as its own reconstruction error allows.
"""

from typing import Annotated

import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.label_flip import label_flip
from fedjax_sim.attacks.parts.adaptive import scaled
from fedjax_sim.contracts.attack import Attack, CraftView
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError, check_range
from fedjax_sim.core.options import Count, Natural, Range, checked
from fedjax_sim.defenses.parts.reconstruction import Reconstruction, explain, suspicious

Step = Annotated[float, Range(1e-3)]


@checked("attack")
def adaptive_label_flip(
    *,
    step: Step = 2.0,
    least_step: Step = 0.125,
    later_limit: Natural | None = None,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Label flipping, scaled as far as FedREDefense lets it pass.

    The attacker mirrors the server: every trial has the server's settings and starts
    from what the server knows of its client. With the default steps five trials reach
    factors from 1 to 4.875; a factor of 1 is itself never tried.

    Args:
      step, least_step: the factor grows by `step`, which halves after each trial while
        it is at least `least_step` (delta and gamma_att).
      later_limit: outer iterations of a trial in the later participations of a client;
        None is as many as the server's, fewer save time.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a `step` below `least_step`, an empty
        window; in the first round, a defence that reconstructs nothing.
    """
    attack = label_flip(start_round=start_round, end_round=end_round)
    return scaled_to_pass(
        attack, step=step, least_step=least_step, later_limit=later_limit
    )


def largest_factor(
    passes, count: int, *, step: float = 2.0, least_step: float = 0.125
) -> Array:
    """Algorithm 3: the largest factor found by halving steps, f32 [n].

    Args:
      passes: factors f32 [n] -> bool [n], whether the scaled update is accepted.
      count: n.
      step, least_step: see `adaptive_label_flip`.
    """
    factor = jnp.ones(count)
    while step >= least_step:
        tried = factor + step
        factor = jnp.where(passes(tried), tried, factor)
        step /= 2
    return factor


def scaled_to_pass(
    attack: Attack, *, step: float, least_step: float, later_limit: int | None
) -> Attack:
    """The attack as `adaptive_label_flip` scales it, which has these options."""
    check_range("attack", "step", step, least_step)

    def find(view: CraftView, updates: Array, rows: Array) -> tuple[Array, Array]:
        settings = view.settings
        if not isinstance(settings, Reconstruction):
            raise InputError(
                "config.attack.name = 'adaptive_label_flip' imitates the server's "
                "reconstruction: it needs config.defense.name = 'fedredefense'"
            )
        if later_limit is not None:
            settings = settings._replace(later_limit=later_limit)
        server, _ = view.defense

        def passes(factor: Array) -> Array:
            found = explain(
                settings,
                server,
                factor[:, None] * updates,
                view.client_ids,
                rows,
                round_=view.round,
                params=view.global_params,
                network=view.network,
            )
            return ~suspicious(found.error, settings.threshold)

        factor = largest_factor(
            passes, len(view.client_ids), step=step, least_step=least_step
        )
        return factor, factor[:, None] * updates

    return scaled(
        attack, find, knowledge=("own_data", "own_updates", "aggregation_rule")
    )


def needs_reconstruction(config: Config) -> None:
    """Refuses a run whose server reconstructs nothing that could be imitated."""
    if config.defense.name != "fedredefense":
        raise InputError(
            f"config.attack.name = {config.attack.name!r} imitates the reconstruction "
            "of the server: it needs config.defense.name = 'fedredefense', not "
            f"{config.defense.name!r}"
        )


ENTRY = Entry(
    adaptive_label_flip,
    paper="Xie, Fang, Gong, ICML 2024, Algorithm 3",
    check=needs_reconstruction,
)
