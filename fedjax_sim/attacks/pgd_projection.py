"""Projected gradient descent: a backdoor whose steps stay in a ball, then scaled."""

from typing import Any

import optax
from jax import Array

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.projection import Ball, onto_ball, project
from fedjax_sim.contracts.attack import Attack, CraftView, LocalStage, LocalTools
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    Positive,
    Traced,
    checked,
)
from fedjax_sim.data.triggers import Position

PyTree = Any


@checked("attack")
def pgd_projection(
    *,
    radius: Traced[Positive] = 0.25,
    ball: Ball = "l2",
    frequency: Count = 1,
    replace: bool = True,
    scale: Traced[Positive] | None = None,
    epochs: Count | None = None,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """PGD: attackers train a backdoor within a ball around the global model.

    Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos, "Attack
    of the Tails: Yes, You Really Can Backdoor Federated Learning", NeurIPS 2020,
    section 3. After every `frequency`-th step, and at the end of the round, the
    parameters are projected; running statistics are free.

    Args:
      radius: of the ball (0.25 for MNIST, 0.083 for CIFAR-10; BackFed 10).
      ball: `l2`, or `l_inf`, which bounds every parameter.
      frequency: steps from one projection to the next (2 in BackFed).
      replace: the update is multiplied before it is sent (model replacement).
      scale: by how much, divided among the attackers of a round; None is n / eta, the
        clients of the round over the server's rate.
      epochs: of the attackers; None is as many as benign clients train.
      dpr: fraction of the victim class of one client that is poisoned, see `backdoor`.
      victim_class: class to poison; None poisons every class.
      target_class: the label the backdoor asks for.
      trigger: name of the pattern (`fedjax_sim.data.triggers.TRIGGERS`).
      position: corner of the pattern, for the triggers that have one.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range; see `backdoor`.
    """

    def local_stages(tools: LocalTools) -> tuple[LocalStage, ...]:
        near = project(tools.global_params, radius, ball, frequency)
        optimizer = optax.chain(tools.optimizer, near)
        return (LocalStage(epochs or tools.epochs, tools.gradient, optimizer),)

    send = multiplied(scale, shared=True)

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        inside = onto_ball(view.updates, radius, ball)
        if not replace:
            return state, inside
        return send(state, view._replace(updates=inside))

    return backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=trigger,
        position=position,
        start_round=start_round,
        end_round=end_round,
    )._replace(
        knowledge=("own_data", "own_updates"), local_stages=local_stages, craft=craft
    )


ENTRY = Entry(
    pgd_projection,
    paper="Wang et al., NeurIPS 2020",
)
