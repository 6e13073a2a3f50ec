"""Mimic: all attackers send what one benign client sends."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.parts import known_updates
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack, AttackSpec, CraftView
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Natural, checked
from fedjax_sim.numerics.columns import masked_mean

Target = Literal["search", "fixed"]
Choice = Literal["argmax", "argmin"]


class MimicState(NamedTuple):
    """What the search has learned."""

    direction: Array  # f32 [d], z
    mean: Array  # f32 [d], mu
    rounds: Array  # i32 [], in which it has looked
    target: Array  # i32 [], a client id


@checked("attack")
def mimic(
    *,
    target: Target = "search",
    epsilon: Natural = 0,
    warmup: Count = 10,
    choice: Choice = "argmax",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Mimic: the update of one benign client is sent by all attackers.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022, appendix B (m): what is sent is honest, so no rule finds it,
    and one client's data weighs too much. "(m)": the place in the paper is from memory.

    Args:
      target: `search` finds the direction of the largest variance of the benign
        updates over the rounds, and the client that is farthest along it; `fixed`
        takes the client `epsilon`.
      epsilon: which of the benign clients of a round, in the order of their ids.
      warmup: rounds of the search; then the last target stays. In a round without it
        the client that is farthest along the direction is copied.
      choice: the client with the largest product with the direction, or the least.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window.
    """

    def init(spec: AttackSpec) -> MimicState:
        zeros = jnp.zeros(spec.layout.size)
        return MimicState(zeros, zeros, jnp.int32(0), jnp.int32(-1))

    def craft(state: MimicState, view: CraftView) -> tuple[MimicState, Array]:
        benign = known_updates.known_rows(view, "benign")
        if target == "fixed":
            order = jnp.lexsort((view.client_ids, ~benign))
            row = order[jnp.clip(epsilon, 0, jnp.maximum(benign.sum() - 1, 0))]
        else:
            drawn = jax.random.normal(view.key, view.global_params.shape)
            state, row = search(state, view, benign, drawn, warmup, choice)
        copied = jnp.where(benign.any(), view.updates[row], 0.0)
        return state, known_updates.sent_by_all(copied, view)

    return Attack(
        knowledge=("benign_updates",),
        init=init,
        active=active_rounds(start_round, end_round),
        craft=craft,
    )


def search(
    state: MimicState,
    view: CraftView,
    benign: Array,
    start: Array,
    warmup: int,
    choice: Choice,
) -> tuple[MimicState, Array]:
    """Returns the state after a round, and the row of the client to copy, i32 [].

    Args:
      state: before it.
      view: of the round.
      benign: bool [n], clients to choose from; without any the state stays.
      start: f32 [d], a Gaussian vector for the first round.
      warmup, choice: see `mimic`.
    """
    t = state.rounds.astype(jnp.float32)
    first, learning = state.rounds == 0, state.rounds < warmup
    mean = masked_mean(view.updates, benign)
    mean = (t * state.mean + mean) / (1 + t)
    offsets = jnp.where(benign[:, None], view.updates - mean[None], 0.0)
    along = jnp.where(first, start, state.direction)
    seen = jnp.matmul(offsets, along, precision=lax.Precision.HIGHEST) @ offsets
    direction = _unit((t * state.direction + _unit(seen)) / (1 + t))
    learns = learning & benign.any()
    direction = jnp.where(learns, direction, state.direction)
    products = jnp.matmul(view.updates, direction, precision=lax.Precision.HIGHEST)
    products = products if choice == "argmax" else -products
    order = jnp.lexsort((view.client_ids, -products, ~benign))
    farthest = order[0]
    is_target = benign & (view.client_ids == state.target)
    row = jnp.where(learning | ~is_target.any(), farthest, is_target.argmax())
    return MimicState(
        direction,
        jnp.where(learns, mean, state.mean),
        state.rounds + benign.any(),
        jnp.where(learns, view.client_ids[farthest], state.target),
    ), row


def _unit(vector: Array) -> Array:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1.0)


ENTRY = Entry(
    mimic,
    paper="Karimireddy, He, Jaggi, ICLR 2022",
)
