"""A block of pixels on the first images of every batch, with a stealth ratio."""

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.options import active_rounds, require_classes
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    CraftView,
    Poison,
    PoisonDecision,
    PyTree,
)
from fedjax_sim.contracts.dataset import Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Fraction, Natural, Traced, checked
from fedjax_sim.data.triggers import block


@checked("attack")
def block_backdoor(
    *,
    alpha: Fraction = 0.052,
    target_class: Natural = 5,
    boost: Traced[float] = 1.0,
    plus_model: bool = False,
    height: Count = 4,
    width: Count = 4,
    row: Natural = 0,
    column: Natural = 0,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """The rectangular backdoor of the IQR / Clip-Avg article.

    Its first listing; docs/protocols/iqr.md says what is assumed.

    In each batch of nominal size B the first int(B alpha) images get the block and
    the target label. Success counts test images of the target class too (`asr_all`).

    Args:
      alpha: stealth ratio; 0.052 is the article's stealthy optimum. It poisons nothing
        in batches of fewer than 20.
      target_class: the label the backdoor asks for (5 is "dog" in CIFAR-10).
      boost: factor on the update (the article's strong variant; it gives no number,
        cohort size / attackers replaces the model).
      plus_model: adds the broadcast model itself to the update, as an upload of
        eta (L - G) + G in place of a difference does (the textbook that the article's
        listings resemble; an inference, see docs/protocols/iqr.md).
      height, width: of the block; the article does not give them.
      row, column: of the top left pixel of the block, from 0; not given either.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a block that does not fit the images, a
        target outside the data set, an empty window.
    """

    def make_trigger(spec: AttackSpec) -> Trigger:
        require_classes(spec, target_class=target_class)
        return block(
            spec.image_shape,
            spec.normalization,
            height=height,
            width=width,
            row=row,
            column=column,
        )

    def poison(spec: AttackSpec) -> Poison:
        def decide(plan, sample_ids, labels, context):
            del plan, sample_ids
            size = len(labels)
            # As Python computes it in the listing: of 100 at 0.29 it is 28.
            first = jnp.arange(size) < int(size * alpha)
            poisoned = first & context.malicious
            labels = jnp.where(poisoned, target_class, labels)
            return PoisonDecision(poisoned, labels, jnp.int32(0))

        trigger = jax.tree.map(lambda x: x[None], make_trigger(spec))
        return Poison(trigger, (), decide)

    multiply = multiplied(boost)

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        state, updates = multiply(state, view)
        if plus_model:
            updates = updates + view.global_params[None]
        return state, updates

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        craft=craft,
        test=lambda spec: BackdoorTest(make_trigger(spec), None, target_class),
    )


ENTRY = Entry(
    block_backdoor,
    paper="IQR / Clip-Avg article",
)
