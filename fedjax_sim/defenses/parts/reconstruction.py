"""Reconstructing a client's update from a handful of synthetic images.

Xie, Fang, Gong, "FedREDefense", ICML 2024, sections 4 and B.3, Algorithms 1 and 2. An
update of honest training is what a few SGD steps on a few images can produce; a crafted
one is not. The inner problem trains the global model on synthetic images X with soft
labels Y at a learning rate a; the outer one moves (X, Y, a), by gradients through all
the inner steps, until the result matches the client's update.

Letters: `B` synthetic images, `K` classes, `n` clients, `d` parameters, `S` inner
steps.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.model import Network

PyTree = Any
Mode = Literal["dynamic", "continuous", "intermittent"]
Variant = Literal["authors", "paper"]
_USUAL = 3  # iterations of a client and round (Table 9: 2.4), for estimates of a plan


class DistilledKnowledge(NamedTuple):
    """What explains the updates of a client; with a leading axis, of many."""

    images: Array  # f32 [B, H, W, C]
    labels: Array  # f32 [B, K], logits
    rate: Array  # f32 [], learning rate of the inner steps


class Rates(NamedTuple):
    """The outer optimiser: SGD with momentum, fresh at every call."""

    images: float
    labels: float
    rate: float
    momentum: float = 0.5


class Found(NamedTuple):
    """The outcome of a reconstruction."""

    error: Array  # f32 [], of the last evaluation
    knowledge: DistilledKnowledge
    iterations: Array  # i32 [], outer iterations


def inner_steps(
    network: Network,
    params: Array,
    knowledge: DistilledKnowledge,
    steps: int,
    variant: Variant = "authors",
) -> list[PyTree]:
    """Trains on the synthetic images; returns the parameters after each step.

    The loss is the soft cross-entropy averaged over images *and* classes (as coded),
    so that the effective step is a / K of the usual one.

    A network with BatchNorm normalises by the statistics of the synthetic images, as a
    client in training does by those of its batches; the running ones play no part.

    Args:
      network: of the model.
      params: f32 [d], the global model.
      knowledge: of one client.
      steps: S.
      variant: of the loss: the mean over images and classes (`authors`), or over images
        of the cross-entropy (`paper`), K times as large.

    Returns:
      S trees. Flat vectors would have XLA:CPU join the gradients of the leaves in a
      loop whose threads write to the same cache lines, slower than all else together.
    """
    targets = jax.nn.softmax(knowledge.labels)
    size = network.buffer_layout.size
    buffers = network.buffer_layout.unravel(jnp.zeros(size)) if size else {}

    def loss(tree):
        logits, _ = network.model.apply(tree, buffers, knowledge.images, train=size > 0)
        entropies = -(targets * jax.nn.log_softmax(logits))
        return entropies.mean() if variant == "authors" else entropies.sum(1).mean()

    # Unrolled: the outer gradient goes through every step, and a loop would copy its
    # residuals.
    trees = [network.layout.unravel(params)]
    for _ in range(steps):
        gradient = jax.grad(loss)(trees[-1])
        descend = lambda p, g: p - knowledge.rate * g
        trees.append(jax.tree.map(descend, trees[-1], gradient))
    return trees[1:]


def reconstruction_error(
    network: Network,
    params: Array,
    update: Array,
    knowledge: DistilledKnowledge,
    steps: int,
    variant: Variant = "authors",
) -> Array:
    """e = ||v_S - w - u||^2 / ||u||^2, each with 1e-9 added (section 4, eq. 2)."""
    last = inner_steps(network, params, knowledge, steps, variant)[-1]
    start, aim = network.layout.unravel(params), network.layout.unravel(update)
    distances = jax.tree.map(lambda v, w, u: ((v - w - u) ** 2).sum(), last, start, aim)
    return _ratio(sum(jax.tree.leaves(distances)), (update**2).sum())


def _ratio(part: Array | float, whole: Array) -> Array:
    return (part + 1e-9) / (whole + 1e-9)


class _Work(NamedTuple):
    """A reconstruction under way."""

    knowledge: DistilledKnowledge
    velocity: DistilledKnowledge
    error: Array
    iterations: Array  # i32 []
    running: Array  # bool []


def reconstruct(
    network: Network,
    params: Array,
    updates: Array,
    start: DistilledKnowledge,
    *,
    limits: Array,
    threshold: float | None,
    rates: Rates,
    steps: int,
    stack: int,
    block: int = 20,
    variant: Variant = "authors",
) -> Found:
    """Reconstructs the updates of many clients in one program.

    Each client evaluates and updates until its error falls below `threshold` (nothing
    is updated then), stops being finite, or `limits` is reached. A client of limit 0 is
    evaluated only. The error is that of the last evaluation, before the last update
    (as coded). Clients that have stopped cost nothing more: `stack` of those still
    running go side by side for `block` iterations, then others take the free places.

    Args:
      network: of the model.
      params: f32 [d], the global model.
      updates: f32 [n, d].
      start: knowledge of each client.
      limits: i32 [n], caps on the outer iterations.
      threshold: below it a client stops; None goes on to the limit.
      rates: of the outer optimiser.
      steps: S.
      stack: clients side by side; 1 suits a CPU.
      block: iterations between two looks at who is done.
      variant: `paper` evaluates once more after the last update (Algorithm 2).

    Returns:
      `Found` with a leading axis n.
    """
    n = updates.shape[0]
    stack = min(stack, n)

    def error_of(knowledge, update):
        return reconstruction_error(network, params, update, knowledge, steps, variant)

    def finished(error):
        below = jnp.bool_(False) if threshold is None else error < threshold
        return below | ~jnp.isfinite(error)

    # Most clients of a later round pass at once, for the price of a forward pass.
    first = lax.map(lambda pair: error_of(*pair), (start, updates))
    done = finished(first)
    work = _Work(
        knowledge=start,
        velocity=jax.tree.map(jnp.zeros_like, start),
        error=first,
        iterations=(done & (limits > 0)).astype(jnp.int32),
        running=~done & (limits > 0),
    )

    def iterate(work: _Work, update: Array, limit: Array) -> _Work:
        error, gradient = jax.value_and_grad(error_of)(work.knowledge, update)
        stop = finished(error)
        velocity = jax.tree.map(
            lambda v, g: rates.momentum * v + g, work.velocity, gradient
        )
        moved = DistilledKnowledge(
            work.knowledge.images - rates.images * velocity.images,
            work.knowledge.labels - rates.labels * velocity.labels,
            work.knowledge.rate - rates.rate * velocity.rate,
        )
        count = work.iterations + 1
        keep = lambda new, old: jax.tree.map(
            lambda a, b: jnp.where(stop, b, a), new, old
        )
        new = _Work(
            keep(moved, work.knowledge),
            keep(velocity, work.velocity),
            error,
            count,
            ~stop & (count < limit),
        )
        return jax.tree.map(lambda a, b: jnp.where(work.running, a, b), new, work)

    def some_blocks(work: _Work) -> _Work:
        chosen = jnp.argsort(~work.running, stable=True)[:stack]
        part = jax.tree.map(lambda x: x[chosen], work)
        own, caps = updates[chosen], limits[chosen]
        if stack == 1:  # a single client may run to its end
            part = jax.tree.map(lambda x: x[0], part)
            with jax.named_scope(f"times_{_USUAL}"):
                part = lax.while_loop(
                    lambda work: work.running,
                    lambda work: iterate(work, own[0], caps[0]),
                    part,
                )
            part = jax.tree.map(lambda x: x[None], part)
        else:
            _, part = lax.while_loop(
                lambda carry: (carry[0] < block) & carry[1].running.any(),
                lambda carry: (carry[0] + 1, jax.vmap(iterate)(carry[1], own, caps)),
                (0, part),
            )
        return jax.tree.map(lambda x, y: x.at[chosen].set(y), work, part)

    with jax.named_scope(f"times_{-(-n // stack)}"):
        work = lax.while_loop(lambda work: work.running.any(), some_blocks, work)
    error = work.error
    if variant == "paper":
        error = lax.map(lambda pair: error_of(*pair), (work.knowledge, updates))
    return Found(error, work.knowledge, work.iterations)


class ReconstructionState(NamedTuple):
    """What the server remembers of the whole population."""

    start: DistilledKnowledge  # where every client begins, shared
    knowledge: DistilledKnowledge  # leading axis N
    seen: Array  # bool [N]
    expelled: Array  # bool [N], for good


def known(state: ReconstructionState, ids: Array) -> DistilledKnowledge:
    """Returns what the server knows of the clients `ids` (i32 [n]) at this point."""
    seen = state.seen[ids]

    def choose(own, start):
        mask = seen.reshape(-1, *[1] * start.ndim)
        return jnp.where(mask, own[ids], start[None])

    return jax.tree.map(choose, state.knowledge, state.start)


class Reconstruction(NamedTuple):
    """The settings of the reconstruction: options of `defenses.fedredefense`."""

    threshold: float
    first_limit: int
    later_limit: int
    mode: Mode
    interval: int
    lr_images: float
    lr_labels: float
    lr_rate: float
    initial_rate: float
    inner_steps: int
    images_per_class: int
    num_images: int | None
    variant: Variant
    stack: int | None


def limits(settings: Reconstruction, seen: Array, round_: Array) -> Array:
    """Returns i32 [n]: how far each client may go in this round."""
    later = jnp.int32(settings.later_limit)
    if settings.mode == "intermittent":
        due = round_ % settings.interval == 1 % settings.interval
        later = jnp.where(due, later, 0)
    return jnp.where(seen, later, settings.first_limit)


def explain(
    settings: Reconstruction,
    state: ReconstructionState,
    updates: Array,
    ids: Array,
    chosen: Array,
    *,
    round_: Array,
    params: Array,
    network: Network,
) -> Found:
    """Reconstructs updates from what the server knows of their clients.

    Args:
      settings, state: of the filter.
      updates: f32 [n, d].
      ids: i32 [n], their clients.
      chosen: bool [n]; the others are evaluated only.
      round_: i32 [], from 1.
      params: f32 [d], the global model.
      network: of it.
    """
    s = settings
    with network.in_precision():  # it repeats what clients do
        return reconstruct(
            network,
            params,
            updates,
            known(state, ids),
            limits=jnp.where(chosen, limits(s, state.seen[ids], round_), 0),
            threshold=s.threshold if s.mode == "dynamic" else None,
            rates=Rates(
                s.lr_images,
                s.lr_labels,
                s.lr_rate,
                0.5 if s.variant == "authors" else 0.0,
            ),
            variant=s.variant,
            steps=s.inner_steps,
            stack=s.stack or (1 if network.backend == "cpu" else 16),
        )


def suspicious(errors: Array, threshold: Array | float) -> Array:
    """Returns bool [n]: errors above the threshold, and those that are no number."""
    return ~(errors <= threshold)
