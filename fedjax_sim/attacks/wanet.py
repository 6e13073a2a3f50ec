"""WaNet: a backdoor by warping, and images warped otherwise that keep their labels."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.contracts.attack import Attack, AttackSpec, Poison, PoisonDecision
from fedjax_sim.contracts.dataset import Partition, Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Traced,
    checked,
)
from fedjax_sim.data.triggers import make_trigger

_POISON, _NOISE = 1, 2  # in the plan; 0 is left alone


@checked("attack")
def wanet(
    *,
    k: Count = 4,
    strength: Positive = 0.5,
    rescale: Positive = 1.0,
    cross_ratio: Traced[NonNegative] = 2.0,
    num_fields: Count = 16,
    field_seed: Seed = 0,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = None,
    target_class: Natural = 7,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """WaNet with its noise mode: only one warping field shall mean the target.

    Nguyen, Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021,
    section 3 (m: the number is from memory). Beside the poisoned samples an attacker
    warps others by the same field and a random shift of each pixel, and keeps their
    labels. (The paper draws the shifts anew for each image; here `num_fields` of them
    are drawn once and dealt out.) Without the noise mode it is `backdoor` with the
    trigger `wanet`.

    Args:
      k: the field is made of k x k shifts.
      strength: s, size of the shifts.
      rescale: of the grid, just below 1 to keep it inside.
      cross_ratio: noised samples for each poisoned one, as far as a client has some.
      num_fields: different random shifts.
      field_seed: of field and shifts.
      dpr: fraction of the victim class of one client that is poisoned, see `backdoor`.
      victim_class: class to poison; None poisons every class.
      target_class: the label the backdoor asks for.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, images that are not square; see
        `backdoor`.
    """
    text = f"wanet(k={k}, strength={strength}, rescale={rescale}, seed={field_seed})"
    plain = backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=text,
        start_round=start_round,
        end_round=end_round,
    )

    def poison(spec: AttackSpec) -> Poison:
        assert plain.poison is not None
        poisoned = np.asarray(plain.poison(spec).plan)
        field = make_trigger(text, spec.image_shape, spec.normalization)
        plan = with_noise(poisoned, spec.partition, spec.malicious_ids, cross_ratio)

        def decide(plan, sample_ids, labels, context):
            kind = jnp.where(context.malicious, plan[sample_ids], 0)
            labels = jnp.where(kind == _POISON, target_class, labels)
            # 0 is the field itself.
            dealt = jnp.where(kind == _NOISE, 1 + sample_ids % num_fields, 0)
            return PoisonDecision(kind > 0, labels, dealt)

        return Poison(shaken(field, num_fields, field_seed), plan, decide)

    return plain._replace(poison=poison)


def with_noise(
    poisoned: np.ndarray,
    partition: Partition,
    malicious_ids: np.ndarray,
    cross_ratio: float,
) -> np.ndarray:
    """Returns i8 [M]: 1 for poisoned samples, 2 for those that are noised.

    These are the first floor(cross_ratio * p) of a client's other samples, p its
    poisoned ones.

    Args:
      poisoned: bool [M].
      partition: the samples of each client.
      malicious_ids: i32, client ids.
      cross_ratio: see `wanet`.
    """
    plan = poisoned.astype(np.int8)
    for client in malicious_ids:
        own = partition.indices[client, : partition.counts[client]]
        count = int(np.floor(np.float64(cross_ratio) * poisoned[own].sum()))
        plan[own[~poisoned[own]][:count]] = _NOISE
    return plan


def shaken(field: Trigger, count: int, seed: int) -> Trigger:
    """Returns the field and `count` of it with random shifts, [1 + count, ...].

    Args:
      field: a trigger with a grid.
      count: how many.
      seed: of the shifts, which are uniform within 2 / H of the image.
    """
    assert field.grid is not None
    height = field.grid.shape[0]
    rng = np.random.default_rng((seed, 1))
    shifts = rng.uniform(-1, 1, (count, *field.grid.shape)) / height
    noised = jnp.asarray(np.clip(field.grid + shifts, -1, 1), jnp.float32)
    stacked = jax.tree.map(
        lambda part: jnp.broadcast_to(part, (1 + count, *part.shape)), field
    )
    return stacked._replace(grid=jnp.concatenate([field.grid[None], noised]))


ENTRY = Entry(
    wanet,
    paper="Nguyen, Tran, ICLR 2021",
)
