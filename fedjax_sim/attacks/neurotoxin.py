"""Neurotoxin: a backdoor in the coordinates that benign clients rarely move."""

import math
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.parts.projection import project_l2
from fedjax_sim.contracts.attack import Attack, AttackSpec, LocalStage, LocalTools
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Fraction, Natural, Positive, Traced, checked
from fedjax_sim.data.triggers import Position
from fedjax_sim.numerics.flat import FlatLayout
from fedjax_sim.numerics.order_statistics import largest


class NeurotoxinState(NamedTuple):
    """What the attacker has seen of the global model."""

    model: Array  # f32 [d], the last broadcast
    reference: Array  # f32 [d], the last global update; 0 before there is one


@checked("attack")
def neurotoxin(
    *,
    top_k: Traced[Fraction] = 0.05,
    per_layer: bool = False,
    norm_bound: Traced[Positive] | None = None,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Neurotoxin: a backdoor whose gradient avoids the coordinates that move most.

    Zhang, Panda, Song, Yang, Mahoney, Mittal, Ramchandran, Gonzalez, "Neurotoxin:
    Durable Backdoors in Federated Learning", ICML 2022, algorithm 1. The reference is
    the last observed global update; until there is one nothing is blocked. Only the
    gradient is masked, so that weight decay still acts on all coordinates.

    Args:
      top_k: fraction of the coordinates to leave alone, those of the largest absolute
        reference; see `blocked`. The authors' CIFAR-10 runs use 0.01, 0.03, 0.05.
      per_layer: take that fraction of every parameter tensor, not of all together.
      norm_bound: radius of the ball around the global model that every local step is
        projected into (the authors' CIFAR-10 runs: 0.2); None does not project.
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

    def init(spec: AttackSpec) -> NeurotoxinState:
        zeros = jnp.zeros(spec.layout.size)
        return NeurotoxinState(zeros, zeros)

    def observe(
        state: NeurotoxinState, round_index: Array, global_params: Array
    ) -> NeurotoxinState:
        update = jnp.where(round_index > 1, global_params - state.model, 0.0)
        return NeurotoxinState(global_params, update)

    def local_transform(
        state: NeurotoxinState, layout: FlatLayout
    ) -> optax.GradientTransformationExtraArgs:
        offsets = layout.offsets if per_layer else (0, layout.size)
        parts = [state.reference[start:stop] for start, stop in pairwise(offsets)]
        kept = jnp.concatenate([~blocked(part, top_k) for part in parts])
        mask = layout.unravel(kept.astype(jnp.float32))

        def update(gradient, empty, params=None, **extra):
            del params, extra
            return jax.tree.map(jnp.multiply, gradient, mask), empty

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    def projected(tools: LocalTools) -> tuple[LocalStage, ...]:
        assert norm_bound is not None  # without it the local work is the usual
        bound = project_l2(tools.global_params, norm_bound)
        optimizer = optax.chain(tools.optimizer, bound)
        return (LocalStage(tools.epochs, tools.gradient, optimizer),)

    return backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=trigger,
        position=position,
        start_round=start_round,
        end_round=end_round,
    )._replace(
        init=init,
        observe=observe,
        local_transform=local_transform,
        local_stages=None if norm_bound is None else projected,
    )


def blocked(reference: Array, top_k: Array | float) -> Array:
    """Returns bool [k]: the floor(top_k k) largest absolute values.

    A coordinate that did not move at all is never among them.

    Args:
      reference: f32 [k].
      top_k: fraction of the coordinates.
    """
    count: Array | int
    if isinstance(top_k, int | float):
        count = math.floor(top_k * len(reference))
    else:
        count = jnp.floor(top_k * len(reference)).astype(jnp.int32)
    moved = jnp.abs(reference)
    return largest(moved, jnp.maximum(count, 1)) & (moved > 0) & (count > 0)


ENTRY = Entry(
    neurotoxin,
    paper="Zhang et al., ICML 2022",
)
