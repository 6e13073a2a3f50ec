"""The scaling attack: train on clean and triggered data in turn, send a multiple."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.options import (
    active_rounds,
    require_classes,
    require_trigger,
)
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    LocalStage,
    LocalTools,
    Poison,
    PoisonDecision,
)
from fedjax_sim.contracts.client import ClientContext
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Natural, Traced, checked
from fedjax_sim.data.triggers import make_trigger


@checked("attack")
def scaling(
    *,
    scale: Traced[float] | None = 3.0,
    target_class: Natural = 0,
    trigger: str = "fedredefense_4pixel",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """The scaling attack on all images but those of the target.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning",
    AISTATS 2020, as in the code of Xie, Fang, Gong, ICML 2024. An attacker passes over
    its data twice as often as a benign client: in turn with the trigger on every image
    and every label set to the target, and clean, in this order. It sends `scale` times
    its update.

    Args:
      scale: factor on the update; None is n / eta, the clients of the round over the
        server's rate, divided among its attackers (model replacement).
      target_class: the label the backdoor asks for.
      trigger: name of the pattern (`fedjax_sim.data.triggers.TRIGGERS`).
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an unknown trigger or one that does not fit the images, a target
        outside the data set, an empty window.
    """
    require_trigger(trigger)

    def pattern(spec: AttackSpec) -> Trigger:
        return make_trigger(trigger, spec.image_shape, spec.normalization)

    return alternating_backdoor(
        tested=pattern,
        stamped=lambda spec: jax.tree.map(lambda x: x[None], pattern(spec)),
        choose=lambda context: jnp.int32(0),
        scale=scale,
        target_class=target_class,
        start_round=start_round,
        end_round=end_round,
    )


def alternating_backdoor(
    *,
    tested: Callable[[AttackSpec], Trigger],
    stamped: Callable[[AttackSpec], Trigger],
    choose: Callable[[ClientContext], Array],
    scale: float | None,
    target_class: int,
    start_round: int,
    end_round: int | None,
) -> Attack:
    """An attack that alternates passes over triggered and clean data, and scales.

    Args:
      tested: the trigger on test images.
      stamped: the triggers on training images, stacked [P, H, W, C].
      choose: which of them a client stamps, i32 [].
      scale: factor on the update.
      target_class: the label the backdoor asks for.
      start_round, end_round: window of the attack.
    """

    def poison(spec: AttackSpec) -> Poison:
        require_classes(spec, target_class=target_class)

        def decide(plan, sample_ids, labels, context):
            del plan, sample_ids
            poisoned = context.malicious & (context.epoch % 2 == 0)
            labels = jnp.where(poisoned, target_class, labels)
            everywhere = jnp.full(labels.shape, poisoned)
            return PoisonDecision(everywhere, labels, choose(context))

        return Poison(stamped(spec), (), decide)

    def local_stages(tools: LocalTools) -> tuple[LocalStage, ...]:
        return (LocalStage(2 * tools.epochs, tools.gradient, tools.optimizer),)

    def test(spec: AttackSpec) -> BackdoorTest:
        require_classes(spec, target_class=target_class)
        return BackdoorTest(tested(spec), None, target_class)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        local_stages=local_stages,
        craft=multiplied(scale),
        test=test,
    )


def needs_epochs(config: Config) -> None:
    """Refuses a number of steps: whole passes alternate."""
    if config.client.steps is not None:
        raise InputError(
            f"config.client.steps = {config.client.steps} must be none with "
            f"config.attack.name = {config.attack.name!r}: it alternates between "
            "passes over poisoned and clean data, config.client.epochs of each"
        )


ENTRY = Entry(
    scaling,
    paper="Bagdasaryan et al., AISTATS 2020; Xie et al., ICML 2024",
    check=needs_epochs,
)
