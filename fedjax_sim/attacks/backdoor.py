"""The targeted backdoor of DROP: stamp a trigger, change the label, train as usual."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks.parts.options import (
    active_rounds,
    require_classes,
    require_trigger,
)
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    Poison,
    PoisonDecision,
)
from fedjax_sim.contracts.dataset import Partition, Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Natural, Traced, checked
from fedjax_sim.data.poison import poison_plan, redistribute_poison
from fedjax_sim.data.triggers import Position, make_trigger


@checked("attack")
def backdoor(
    *,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    equal_distribution: bool = False,
    batchwise: bool = False,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Targeted backdoor (Gu et al. 2017, Chen et al. 2017; Syros et al. 2025, eq. 4).

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
      trigger: name of the pattern (`fedjax_sim.data.triggers.TRIGGERS`), with options
        as in `sig(delta=30.0)`, `blended(rate=0.1, path='logo.png')`.
      position: corner of the pattern, for the triggers that have one.
      equal_distribution: share all poisoned samples out equally among the malicious
        clients (`non_iid_equal_distribution`).
      batchwise: every batch of B samples of an attacker holds max(1, floor(B p)) of
        its poisoned ones, the fraction p of its data, one after the other and again
        from the start; an epoch ends with the clean ones (`batchwise_poison`).
      start_round, end_round: poison from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a class outside the data set, victim
        equal to target, a dpr too small for one sample, an empty window, or a trigger
        that does not fit the images.
    """
    require_trigger(trigger)
    if victim_class == target_class:
        raise InputError(
            f"config.attack.victim_class = {victim_class} must differ from "
            "config.attack.target_class"
        )

    def pattern(spec: AttackSpec) -> Trigger:
        shape, normalization = spec.image_shape, spec.normalization
        return make_trigger(trigger, shape, normalization, position=position)

    def check_classes(spec: AttackSpec) -> None:
        require_classes(spec, victim_class=victim_class, target_class=target_class)

    def poison(spec: AttackSpec) -> Poison:
        check_classes(spec)
        plan_at = partial(
            poison_plan,
            spec.partition,
            spec.labels,
            spec.malicious_ids,
            victim_class=victim_class,
        )
        plan = plan_at(dpr=dpr)
        if dpr > 0 and not plan.any() and plan_at(dpr=1.0).any():
            raise InputError(
                f"config.attack.dpr = {dpr} poisons no sample: floor(dpr * v) is 0 for "
                "the v samples that each malicious client has of "
                f"config.attack.victim_class = {victim_class}; allowed: 1 / v and more"
            )
        stacked = jax.tree.map(lambda part: part[None], pattern(spec))

        def decide(plan, sample_ids, labels, context):
            poisoned = plan[sample_ids] & context.malicious
            labels = jnp.where(poisoned, target_class, labels)
            return PoisonDecision(poisoned, labels, jnp.int32(0))

        return Poison(stacked, np.asarray(plan), decide, batchwise)

    def repartition(spec: AttackSpec) -> Partition:
        return redistribute_poison(
            spec.partition, poison(spec).plan, spec.malicious_ids, seed=0
        )

    def test(spec: AttackSpec) -> BackdoorTest:
        check_classes(spec)
        return BackdoorTest(pattern(spec), victim_class, target_class)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        test=test,
        repartition=repartition if equal_distribution else None,
    )


ENTRY = Entry(
    backdoor,
    paper="Gu et al. 2017; Chen et al. 2017; Syros et al. 2025 (DROP), 2.2",
)
