"""Clean labels: a trigger on images of the target class, whose labels stay right."""

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
from fedjax_sim.contracts.dataset import Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Natural, Traced, checked
from fedjax_sim.data.poison import poison_plan
from fedjax_sim.data.triggers import Position, make_trigger


@checked("attack")
def clean_label(
    *,
    dpr: Traced[Fraction] = 0.3,
    target_class: Natural = 7,
    trigger: str = "sig(delta=30.0)",
    test_trigger: str | None = None,
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Attackers stamp images of the target class and change no label.

    Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption
    Without Label Poisoning", ICIP 2019. Each malicious client stamps the trigger on the
    first floor(dpr * v) of its v samples of the target class; success is the share of
    triggered images of all other classes that are taken for it.

    Args:
      dpr: share of the target class of one client that is stamped.
      target_class: the class that the trigger is to mean.
      trigger: name of the pattern (`fedjax_sim.data.triggers.TRIGGERS`), with options
        as in `sig(delta=30.0)`, `blended(rate=0.1, path='logo.png')`.
      test_trigger: on the test images, where it is another, usually stronger one; None
        is the same.
      position: corner of the pattern, for the triggers that have one.
      start_round, end_round: poison from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a class outside the data set, a dpr too
        small for one sample, an empty window, or a trigger that does not fit the
        images.
    """
    require_trigger(trigger)
    if test_trigger is not None:
        require_trigger(test_trigger)

    def pattern(text: str, spec: AttackSpec) -> Trigger:
        shape, normalization = spec.image_shape, spec.normalization
        return make_trigger(text, shape, normalization, position=position)

    def poison(spec: AttackSpec) -> Poison:
        require_classes(spec, target_class=target_class)
        plan = poison_plan(
            spec.partition,
            spec.labels,
            spec.malicious_ids,
            dpr=dpr,
            victim_class=target_class,
        )
        if dpr > 0 and not plan.any():
            raise InputError(
                f"config.attack.dpr = {dpr} poisons no sample: no malicious client has "
                f"1 / dpr of config.attack.target_class = {target_class}"
            )
        stacked = jax.tree.map(lambda part: part[None], pattern(trigger, spec))

        def decide(plan, sample_ids, labels, context):
            poisoned = plan[sample_ids] & context.malicious
            return PoisonDecision(poisoned, labels, jnp.int32(0))

        return Poison(stacked, np.asarray(plan), decide)

    def test(spec: AttackSpec) -> BackdoorTest:
        require_classes(spec, target_class=target_class)
        return BackdoorTest(pattern(test_trigger or trigger, spec), None, target_class)

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        test=test,
    )


ENTRY = Entry(
    clean_label,
    paper="Barni, Kallas, Tondi, ICIP 2019",
)
