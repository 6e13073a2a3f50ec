"""Label flipping that knows FedREDefense and stays below its threshold.

Xie, Fang, Gong, ICML 2024, section 5.4 and Algorithm 3: the attacker trains on flipped
labels and scales the update as far as its own reconstruction error allows.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.base import Attack, CraftView
from fedjax_sim.attacks.label_flip import label_flip
from fedjax_sim.attacks.options import require_range
from fedjax_sim.attacks.targeted_label_flip import targeted_label_flip
from fedjax_sim.errors import InputError
from fedjax_sim.reconstruction import Rates, ReconstructionState, known, reconstruct


def adaptive_label_flip(
    *,
    step: float = 2.0,
    least_step: float = 0.125,
    threshold: float = 0.6,
    first_limit: int = 800,
    later_limit: int = 2000,
    lr_images: float = 0.5,
    lr_labels: float = 0.2,
    lr_rate: float = 5e-6,
    inner_steps: int = 5,
    stack: int | None = None,
    start_round: int = 1,
    end_round: int | None = None,
) -> Attack:
    """Label flipping, scaled as far as FedREDefense lets it pass.

    The attacker mirrors the server: it starts every trial from what the server knows
    of its client. With the default steps five trials reach factors from 1 to 4.875; a
    factor of 1 is itself never tried.

    Args:
      step, least_step: the factor grows by `step`, which halves after each trial while
        it is at least `least_step` (delta and gamma_att).
      threshold, first_limit, later_limit, lr_images, lr_labels, lr_rate, inner_steps,
        stack: of the defence, see `fedjax_sim.defenses.fedredefense`.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: a number out of range, an empty window; in the first round, another
        defence than FedREDefense.
    """
    attack = label_flip(start_round=start_round, end_round=end_round)
    return _scaled(
        attack,
        step=step,
        least_step=least_step,
        threshold=threshold,
        first_limit=first_limit,
        later_limit=later_limit,
        rates=Rates(lr_images, lr_labels, lr_rate),
        inner_steps=inner_steps,
        stack=stack,
    )


def adaptive_targeted_label_flip(
    *,
    victim_class: int = 0,
    target_class: int = 2,
    step: float = 2.0,
    least_step: float = 0.125,
    threshold: float = 0.6,
    first_limit: int = 800,
    later_limit: int = 2000,
    lr_images: float = 0.5,
    lr_labels: float = 0.2,
    lr_rate: float = 5e-6,
    inner_steps: int = 5,
    stack: int | None = None,
    start_round: int = 1,
    end_round: int | None = None,
) -> Attack:
    """The same for one class: labels `victim_class` become `target_class`.

    Arguments and errors: see `adaptive_label_flip` and `targeted_label_flip`.
    """
    attack = targeted_label_flip(
        victim_class=victim_class,
        target_class=target_class,
        start_round=start_round,
        end_round=end_round,
    )
    return _scaled(
        attack,
        step=step,
        least_step=least_step,
        threshold=threshold,
        first_limit=first_limit,
        later_limit=later_limit,
        rates=Rates(lr_images, lr_labels, lr_rate),
        inner_steps=inner_steps,
        stack=stack,
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


def _scaled(
    attack: Attack,
    *,
    step: float,
    least_step: float,
    threshold: float,
    first_limit: int,
    later_limit: int,
    rates: Rates,
    inner_steps: int,
    stack: int | None,
) -> Attack:
    require_range("least_step", least_step, low=1e-3)
    require_range("step", step, low=least_step)

    def craft(state, view: CraftView):
        server = _server_memory(view.defense)
        start = known(server, view.client_ids)
        limit = jnp.where(server.seen[view.client_ids], later_limit, first_limit)

        def passes(factor: Array) -> Array:
            found = reconstruct(
                view.network,
                view.global_params,
                factor[:, None] * view.updates,
                start,
                limits=jnp.where(view.malicious, limit, 0),
                threshold=threshold,
                rates=rates,
                steps=inner_steps,
                stack=stack or (1 if jax.default_backend() == "cpu" else 16),
            )
            return found.error <= threshold

        factor = largest_factor(
            passes, len(view.client_ids), step=step, least_step=least_step
        )
        return state, factor[:, None] * view.updates

    return attack._replace(
        knowledge=("own_data", "own_updates", "aggregation_rule"), craft=craft
    )


def _server_memory(defense) -> ReconstructionState:
    """What FedREDefense remembers, out of the server's state."""
    parts = jax.tree.leaves(
        defense, is_leaf=lambda x: isinstance(x, ReconstructionState)
    )
    for part in parts:
        if isinstance(part, ReconstructionState):
            return part
    raise InputError(
        "config.attack.name = 'adaptive_label_flip' imitates the reconstruction of the "
        "server: it needs config.defense.name = 'fedredefense'"
    )
