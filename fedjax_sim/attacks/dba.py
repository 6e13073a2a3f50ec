"""DBA: every attacker stamps one part of the trigger."""

from fedjax_sim.attacks.scaling import alternating_backdoor, needs_epochs
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import check_choice
from fedjax_sim.core.options import Count, Natural, Traced, checked
from fedjax_sim.data.triggers import FOUR_PIXELS, single_pixels


@checked("attack")
def dba(
    *,
    scale: Traced[float] | None = 3.0,
    target_class: Natural = 0,
    trigger: str = "fedredefense_4pixel",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Distributed backdoor: client k stamps pixel k mod 4 of four.

    Xie, Huang, Chen, Li, "DBA: Distributed Backdoor Attacks against Federated
    Learning", ICLR 2020, as in the code of Xie, Fang, Gong, ICML 2024: local work and
    factor are those of `scaling`, test images get all four pixels. (The original
    divides four bars and scales by 100 in a single round.)

    Args:
      scale: factor on the update; None is n / eta, the clients of the round over the
        server's rate, divided among its attackers (model replacement).
      target_class: the label the backdoor asks for.
      trigger: name of the pattern, one of four pixels
        (`fedjax_sim.data.triggers.FOUR_PIXELS`).
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an unknown trigger or one that does not fit the images, a target
        outside the data set, an empty window.
    """
    check_choice("attack", "trigger", trigger, FOUR_PIXELS)
    return alternating_backdoor(
        tested=lambda spec: FOUR_PIXELS[trigger](spec.image_shape, spec.normalization),
        stamped=lambda spec: single_pixels(
            trigger, spec.image_shape, spec.normalization
        ),
        choose=lambda context: context.client_id % 4,
        scale=scale,
        target_class=target_class,
        start_round=start_round,
        end_round=end_round,
    )


ENTRY = Entry(
    dba,
    paper="Xie et al., ICLR 2020; Xie et al., ICML 2024",
    check=needs_epochs,
)
