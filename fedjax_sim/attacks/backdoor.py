"""The targeted backdoor of DROP: stamp a trigger, change the label, train as usual."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks.base import (
    Attack,
    AttackSpec,
    BackdoorTest,
    Poison,
    PoisonDecision,
    window,
)
from fedjax_sim.data.poison import poison_plan
from fedjax_sim.data.triggers import TRIGGERS, Position, Trigger
from fedjax_sim.errors import InputError, did_you_mean


def backdoor(
    *,
    dpr: float = 0.125,
    victim_class: int | None = 0,
    target_class: int = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: int = 1,
    end_round: int | None = None,
) -> Attack:
    """Targeted backdoor (Gu et al. 2017, Chen et al. 2017; [DROP] 2.2, eq. 4).

    Each malicious client stamps the trigger on the first floor(dpr * v) of its v
    samples of the victim class and labels them as the target; they replace the
    originals and are never augmented.

    Args:
      dpr: data poisoning rate, the fraction *of the victim class of one client*.
        The paper's percentage refers to all samples of the client: 1.25 % there is
        0.125 here for ten balanced classes.
      victim_class: class to poison; None poisons every class, and the attack success
        rate then counts all test images but those of the target.
      target_class: the label the backdoor asks for.
      trigger: name of the pattern (`fedjax_sim.data.triggers.TRIGGERS`).
      position: corner of the pattern, for the triggers that have one.
      start_round, end_round: poison from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: a class outside the data set, victim equal to target, a dpr outside
        [0, 1], an empty window, or a trigger that does not fit the images.
    """
    if isinstance(dpr, float | int) and not 0 <= dpr <= 1:
        raise InputError(
            f"config.attack.dpr = {dpr} must lie between 0 and 1: a fraction of the "
            "victim-class samples of each malicious client"
        )
    if trigger not in TRIGGERS:
        hint = did_you_mean(trigger, TRIGGERS)
        raise InputError(
            f"config.attack.trigger = {trigger!r} is not a trigger; {hint}"
        )
    if start_round < 1:
        raise InputError(
            f"config.attack.start_round = {start_round} must be at least 1"
        )
    if end_round is not None and end_round <= start_round:
        raise InputError(
            f"config.attack.end_round = {end_round} must be larger than "
            f"config.attack.start_round = {start_round}, or None"
        )
    if victim_class == target_class:
        raise InputError(
            f"config.attack.victim_class = {victim_class} must differ from "
            "config.attack.target_class"
        )

    def make_trigger(spec: AttackSpec) -> Trigger:
        factory = TRIGGERS[trigger]
        options = {"position": position} if trigger in ("1pixel", "4pixel") else {}
        return factory(spec.image_shape, spec.normalization, **options)

    def check_classes(spec: AttackSpec) -> None:
        for name, value in (("victim", victim_class), ("target", target_class)):
            if value is not None and not 0 <= value < spec.num_classes:
                raise InputError(
                    f"config.attack.{name}_class = {value} must lie between 0 and "
                    f"{spec.num_classes - 1}"
                )

    def poison(spec: AttackSpec) -> Poison:
        check_classes(spec)
        plan = poison_plan(
            spec.partition,
            spec.labels,
            spec.malicious_ids,
            dpr=dpr,
            victim_class=victim_class,
            target_class=target_class,
        )
        trigger_values = make_trigger(spec)
        stacked = Trigger(trigger_values.mask[None], trigger_values.value[None])

        def decide(plan, sample_ids, labels, context):
            poisoned = plan[sample_ids] & context.malicious
            labels = jnp.where(poisoned, target_class, labels)
            return PoisonDecision(poisoned, labels, jnp.int32(0))

        return Poison(stacked, np.asarray(plan), decide)

    def test(spec: AttackSpec) -> BackdoorTest:
        check_classes(spec)
        return BackdoorTest(make_trigger(spec), victim_class, target_class)

    return Attack(
        knowledge=("own_data",),
        active=window(start_round, end_round),
        poison=poison,
        test=test,
    )
