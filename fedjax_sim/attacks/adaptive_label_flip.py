"""Label flipping that knows FedREDefense and stays below its threshold.

Xie, Fang, Gong, ICML 2024, section 5.4 and Algorithm 3: the attacker trains on flipped
labels and scales the update as far as its own reconstruction error allows.
"""

import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.label_flip import label_flip
from fedjax_sim.attacks.parts.options import require_range
from fedjax_sim.attacks.targeted_label_flip import targeted_label_flip
from fedjax_sim.contracts.attack import Attack, CraftView
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.reconstruction import Reconstruction, explain, suspicious


def adaptive_label_flip(
    *,
    step: float = 2.0,
    least_step: float = 0.125,
    later_limit: int | None = None,
    start_round: int = 1,
    end_round: int | None = None,
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
      InputError: a number out of range, an empty window; in the first round, a defence
        that reconstructs nothing.
    """
    attack = label_flip(start_round=start_round, end_round=end_round)
    return _scaled(attack, step=step, least_step=least_step, later_limit=later_limit)


def adaptive_targeted_label_flip(
    *,
    victim_class: int = 0,
    target_class: int = 2,
    step: float = 2.0,
    least_step: float = 0.125,
    later_limit: int | None = None,
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
    return _scaled(attack, step=step, least_step=least_step, later_limit=later_limit)


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
    attack: Attack, *, step: float, least_step: float, later_limit: int | None
) -> Attack:
    require_range("least_step", least_step, low=1e-3)
    require_range("step", step, low=least_step)
    if later_limit is not None:
        require_range("later_limit", later_limit, low=0)

    def craft(state, view: CraftView):
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
                factor[:, None] * view.updates,
                view.client_ids,
                view.malicious,
                round_=view.round,
                params=view.global_params,
                network=view.network,
            )
            return ~suspicious(found.error, settings.threshold)

        factor = largest_factor(
            passes, len(view.client_ids), step=step, least_step=least_step
        )
        return state, factor[:, None] * view.updates

    return attack._replace(
        knowledge=("own_data", "own_updates", "aggregation_rule"), craft=craft
    )
