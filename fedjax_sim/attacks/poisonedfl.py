"""PoisonedFL: fake clients push the model along one direction in every round.

Xie, Fang, Gong, CVPR 2025, as in eqs. (7) to (10) of the report of Guthmann and Tan
(TUM 2026). In round t of the attack, with the broadcast model w_t; behind the colon the
name in the code:

    g = w_t - w_(t-1)                       the last global update: `step`
    h = g - ||g|| / ||k|| k                 eq. (7), k the mean of what the fakes sent
    v = |h| / ||h||                         eq. (8): `magnitudes`
    lambda = c ||g||                        eq. (9): `strength`, c the `scale`
    u = lambda v * s                        eq. (10), sent by every fake

s are signs drawn once (`direction`). Every e rounds (`window`) the attacker counts the
coordinates that have moved its way since the window began (`count_aligned`); where they
are no more than chance explains, c becomes beta c (`decay`), not below c_min.
"""

import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.parts.known_updates import draw_rows, sent_by_all
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, AttackSpec, CraftView
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Fraction, NonNegative, Range, Traced, checked
from fedjax_sim.numerics.columns import masked_mean

Test = Literal["binomial", "majority"]
Adaptation = Literal["none", "noise", "sign_flip", "partition"]
PartitionScale = Literal["norm", "none", "mean"]
Share = Annotated[float, Range(0, 1, open_low=True)]


class PoisonedFLState(NamedTuple):
    """What the attacker remembers; t counts rounds of the attack from 0."""

    direction: Array  # f32 [d], signs, drawn once; 0 before
    places: Array  # i32 [d], a permutation; i32 [0] unless dimensions are divided
    model: Array  # f32 [d], the last broadcast
    anchor: Array  # f32 [d], the model that the running window began with
    sent: Array  # f32 [d], mean of what the fakes sent last
    scale: Array  # f32 [], c


@checked("attack")
def poisonedfl(
    *,
    initial_scale: Traced[NonNegative] = 8.0,
    decay: Traced[Share] = 0.7,
    min_scale: Traced[NonNegative] = 0.5,
    window: Count = 50,
    test: Test = "binomial",
    p_value: Share = 0.01,
    adaptation: Adaptation = "none",
    noise_scale: Traced[NonNegative] = 1.0,
    flip_probability: Traced[Fraction] = 0.05,
    partition_scale: PartitionScale = "norm",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """PoisonedFL: untargeted, from the broadcast models alone.

    Xie, Fang, Gong, "Model Poisoning Attacks to Federated Learning via Multi-Round
    Consistency", CVPR 2025. Every fake client sends lambda v s: s a fixed random sign
    pattern, v the length-1 magnitudes of that part of the last global update which the
    fakes did not cause, lambda = c times its norm. Every `window` rounds c shrinks if
    the model did not follow s. In the first round of the attack fakes send zeros.

    Args:
      initial_scale: c at the start, the length of what fakes send in lengths of the
        last global update.
      decay: factor by which c shrinks.
      min_scale: c never shrinks below this.
      window: rounds between two tests.
      test: c stays if the total update of the window has the sign of s in as many
        coordinates as a fair coin reaches with probability `p_value` (`binomial`), or
        in more than half of them (`majority`).
      p_value: of the binomial test.
      adaptation: against rules that look for equal updates (not in the paper):
        `noise` adds a vector of `noise_scale` lambda, `sign_flip` turns each sign with
        `flip_probability`, both drawn by each fake in each round; `partition` gives
        each fake its own coordinates.
      noise_scale: length of the noise, in lengths of the update.
      flip_probability: of the sign of each coordinate.
      partition_scale: rescale a part to the length of the whole (`norm`), so that the
        mean of all parts is the whole (`mean`), or not (`none`).
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def init(spec: AttackSpec) -> PoisonedFLState:
        size = spec.layout.size
        zeros = jnp.zeros(size)
        places = jnp.zeros(size if adaptation == "partition" else 0, jnp.int32)
        scale = jnp.asarray(initial_scale, jnp.float32)
        return PoisonedFLState(zeros, places, zeros, zeros, zeros, scale)

    def varied(vector: Array, strength: Array, state, view: CraftView) -> Array:
        shape = vector.shape
        if adaptation == "noise":
            noise = draw_rows(view, lambda key: jax.random.normal(key, shape))
            return with_noise(vector, noise, noise_scale * strength)
        if adaptation == "sign_flip":
            draws = draw_rows(view, lambda key: jax.random.uniform(key, shape))
            return flipped(vector, draws, flip_probability)
        if adaptation == "partition":
            count = jnp.maximum(view.malicious.sum(), 1)
            owners = state.places % count
            parts = divided(vector, owners, _ranks(view))
            return rescaled(parts, strength, count, partition_scale)
        return sent_by_all(vector, view)

    def craft(state: PoisonedFLState, view: CraftView):
        state = _drawn(state, view.key)
        params, t = view.global_params, view.round - start_round
        threshold = aligned_enough(params.size, test, p_value)
        # A test at t = j window looks back to the model of round (j-1) window + 1. In a
        # window of one that is the model itself, which never moved: the last step is
        # looked at there, but for that of the first round, in which fakes send zeros.
        anchor = jnp.where((t - 1) % window == 0, params, state.anchor)
        anchor = state.model if window == 1 else anchor
        failed = count_aligned(params, anchor, state.direction) < threshold
        shrunk = decay * state.scale
        tested = (t > (1 if window == 1 else 0)) & (t % window == 0)
        shrinks = tested & failed & (shrunk >= min_scale)
        scale = jnp.where(shrinks, shrunk, state.scale)

        step = params - state.model
        strength = jnp.where(t > 0, scale * jnp.linalg.norm(step), 0.0)
        vector = strength * magnitudes(step, state.sent) * state.direction
        crafted = varied(vector, strength, state, view)

        attacks = view.malicious.any() & (t >= 0)
        sent = jnp.where(attacks, masked_mean(crafted, view.malicious), state.sent)
        return state._replace(
            model=params, anchor=anchor, sent=sent, scale=scale
        ), crafted

    def report(state: PoisonedFLState) -> dict[str, Array]:
        count = count_aligned(state.model, state.anchor, state.direction)
        return {"scale": state.scale, "aligned": count / state.model.size}

    return Attack(
        knowledge=(),
        init=init,
        active=active_rounds(start_round, end_round),
        craft=craft,
        trains=False,
        report=report,
    )


def _drawn(state: PoisonedFLState, key: Array) -> PoisonedFLState:
    """Draws direction and division of the coordinates, if that is still to do."""

    def draw():
        # In this round fakes send zeros: nothing comes of the draws of clients 0 and 1,
        # whose keys these are.
        direction_key, places_key = jax.random.split(key)
        direction = jax.random.rademacher(
            direction_key, state.direction.shape, state.direction.dtype
        )
        places = jax.random.permutation(places_key, state.places.size)
        return state._replace(
            direction=direction, places=places.astype(state.places.dtype)
        )

    return lax.cond(state.direction[0] == 0, draw, lambda: state)


def _ranks(view: CraftView) -> Array:
    """Returns i32 [n]: how many attackers have a smaller client id."""
    smaller = view.client_ids[None, :] < view.client_ids[:, None]
    return (smaller & view.malicious[None, :]).sum(1)


def magnitudes(step: Array, sent: Array) -> Array:
    """Returns v f32 [d], length 1: what the fakes did not cause of the last step.

    Args:
      step: f32 [d], last global update.
      sent: f32 [d], mean of what the fakes sent for it.
    """
    share = jnp.linalg.norm(step) / (jnp.linalg.norm(sent) + 1e-9)
    rest = step - share * sent
    return jnp.abs(rest) / (jnp.linalg.norm(rest) + 1e-9)


def count_aligned(params: Array, anchor: Array, direction: Array) -> Array:
    """Returns i32 []: coordinates whose update since `anchor` has the wanted sign.

    A coordinate that did not move counts with the sign of its parameter, as in the
    authors' code.
    """
    moved = params - anchor
    moved = jnp.where(moved == 0, params, moved)
    return (jnp.sign(moved) == direction).sum()


def aligned_enough(size: int, test: Test, p_value: float) -> int:
    """Returns the aligned coordinates of `size` from which on c stays as it is."""
    if test == "majority":
        return size // 2 + 1
    from scipy import special  # slow to import, and this is all that needs it

    # The quantile of Bin(size, 1/2) at 1 - p, as SciPy finds it.
    count = math.ceil(special.bdtrik(1 - p_value, size, 0.5))
    lower = max(count - 1, 0)
    return lower if special.bdtr(lower, size, 0.5) >= 1 - p_value else count


def with_noise(vector: Array, noise: Array, length: Array) -> Array:
    """Adds to f32 [d] each row of `noise` f32 [m, d], at the given length."""
    norms = jnp.linalg.norm(noise, axis=1, keepdims=True)
    return vector[None] + length * noise / jnp.where(norms > 0, norms, 1.0)


def flipped(vector: Array, draws: Array, probability: Array | float) -> Array:
    """Turns the signs of f32 [d] where the draws f32 [m, d] are below `probability`."""
    return jnp.where(draws < probability, -vector[None], vector[None])


def divided(vector: Array, owners: Array, ranks: Array) -> Array:
    """Returns f32 [m, d]: row i keeps the coordinates that `owners` gives to ranks[i].

    Args:
      vector: f32 [d].
      owners: i32 [d].
      ranks: i32 [m].
    """
    return jnp.where(owners[None] == ranks[:, None], vector[None], 0.0)


def rescaled(parts: Array, length: Array, count: Array, rule: PartitionScale) -> Array:
    """Scales parts f32 [m, d] to `length` (norm), by `count` (mean), or not (none)."""
    if rule == "none":
        return parts
    if rule == "mean":
        return count * parts
    norms = jnp.linalg.norm(parts, axis=1, keepdims=True)
    return length * parts / jnp.where(norms > 0, norms, 1.0)


ENTRY = Entry(
    poisonedfl,
    paper="Xie, Fang, Gong, CVPR 2025",
)
