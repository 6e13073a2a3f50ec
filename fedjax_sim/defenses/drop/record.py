"""What the newest distillation did, kept for whoever looks at the run.

It is part of the rule's state, so a checkpoint holds it; nothing in a run reads it.

Letters: `N` population, `P` points of a curve.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.defenses.drop.iteration import Losses

POINTS, PICTURES = 50, 16


class Curves(NamedTuple):
    """Means over the steps of an iteration; NaN where no iteration was."""

    generator: Array  # f32 [P]
    clone: Array  # f32 [P]
    critic: Array  # f32 [P], penalty included
    replay: Array  # f32 [P]


class Record(NamedTuple):
    """One distillation; `round` is 0 before the first."""

    round: Array  # i32 []
    iterations: Array  # i32 [], carried out
    curves: Curves  # over the iterations that were planned
    taught: Array  # bool [N], clients whose models taught
    images: Array  # f32 [PICTURES, H, W, C], what the generator makes at the end
    # On the server's own samples, fractions; the clone's before it is mixed.
    clone_accuracy: Array  # f32 []
    aggregate_accuracy: Array  # f32 []


def no_curves() -> Curves:
    """Curves before the first iteration."""
    return Curves(*(jnp.full(POINTS, jnp.nan) for _ in Curves._fields))


def no_record(spec: FederationSpec) -> Record:
    """The record of a run before its first distillation."""
    return Record(
        round=jnp.int32(0),
        iterations=jnp.int32(0),
        curves=no_curves(),
        taught=jnp.zeros(spec.population, bool),
        images=jnp.zeros((PICTURES, *spec.network.image_shape)),
        clone_accuracy=jnp.float32(0),
        aggregate_accuracy=jnp.float32(0),
    )


def with_losses(curves: Curves, i: Array, planned: int, losses: Losses) -> Curves:
    """Puts the losses of iteration i where it belongs; of several the last stays."""
    place = i * POINTS // planned
    return Curves(
        *(
            curve.at[place].set(getattr(losses, name).mean())
            for name, curve in curves._asdict().items()
        )
    )
