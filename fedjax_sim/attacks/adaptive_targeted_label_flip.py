"""Targeted label flipping that knows FedREDefense and stays below its threshold.

Xie, Fang, Gong, ICML 2024, section 6.1 and Algorithm 3.
"""

from fedjax_sim.attacks.adaptive_label_flip import (
    Step,
    needs_reconstruction,
    scaled_to_pass,
)
from fedjax_sim.attacks.targeted_label_flip import targeted_label_flip
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Natural, checked


@checked("attack")
def adaptive_targeted_label_flip(
    *,
    victim_class: Natural = 0,
    target_class: Natural = 2,
    step: Step = 2.0,
    least_step: Step = 0.125,
    later_limit: Natural | None = None,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """The same as `adaptive_label_flip` for one class, see `targeted_label_flip`.

    Args:
      victim_class: class to relabel.
      target_class: the label it gets.
      step, least_step: the factor grows by `step`, which halves after each trial while
        it is at least `least_step` (delta and gamma_att).
      later_limit: outer iterations of a trial in the later participations of a client;
        None is as many as the server's, fewer save time.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: as the two.
    """
    attack = targeted_label_flip(
        victim_class=victim_class,
        target_class=target_class,
        start_round=start_round,
        end_round=end_round,
    )
    return scaled_to_pass(
        attack, step=step, least_step=least_step, later_limit=later_limit
    )


ENTRY = Entry(
    adaptive_targeted_label_flip,
    paper="Xie, Fang, Gong, ICML 2024, Algorithm 3",
    check=needs_reconstruction,
)
