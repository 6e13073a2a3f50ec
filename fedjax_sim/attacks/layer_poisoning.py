"""Layer poisoning: the backdoor is sent in those layers alone that it needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.contracts.attack import Attack, LocalModel, LocalStage, LocalTools
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Traced,
    checked,
)
from fedjax_sim.data.triggers import Position, make_trigger, stamp

PyTree = Any


@checked("attack")
def layer_poisoning(
    *,
    threshold: Traced[Fraction] = 0.8,
    strength: Traced[NonNegative] = 1.0,
    dpr: Traced[Fraction] = 0.5,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Layer-wise poisoning (LP attack): find the backdoor-critical layers, send those.

    Zhuang, Yu, Wang, Hua, Li, Yuan, "Backdoor Federated Learning by Poisoning
    Backdoor-Critical Layers", ICLR 2024, sections 3 and 4. An attacker trains two
    models from the global one, m on poisoned and b on clean data, each as long as a
    benign client trains. The success rate of the backdoor on its own data orders the
    layers: first those without which m loses most of it. The first of them that
    give b `threshold` of m's rate are the critical ones, and are sent from m; all
    others from b. A layer is a parameter tensor, as in the authors' code; running
    statistics are those of b. If m has no success, b is sent.

    Args:
      threshold: of m's success rate. (The authors: 0.8, and 0.95 where they adapt to
        the defence.)
      strength: lambda: a critical layer is g + lambda (m - g) + max(0, 1 - lambda)
        (b - g), g the global one. (The authors: 1 for ResNet and VGG, 0.5 for a small
        CNN.)
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
        usual = tools.epochs, tools.gradient, tools.optimizer
        return LocalStage(*usual), LocalStage(*usual, poisoned=False, afresh=True)

    def result(tools: LocalTools, models: tuple[LocalModel, ...]) -> LocalModel:
        malicious, benign = models

        def rate(params: PyTree, buffers: PyTree) -> Array:
            return _success(
                tools, params, buffers, trigger, position, victim_class, target_class
            )

        def without(keep: Array) -> Array:
            mixed = _mixed(keep, malicious.params, benign.params)
            return rate(mixed, malicious.buffers)

        def with_only(chosen: Array) -> Array:
            mixed = _mixed(chosen, malicious.params, benign.params)
            return rate(mixed, benign.buffers)

        layers = len(jax.tree.leaves(benign.params))
        found = critical_layers(without, with_only, layers, threshold)
        sent = crafted(
            found.chosen, malicious.params, benign.params, tools.global_params, strength
        )
        return LocalModel(sent, benign.buffers)

    return backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=trigger,
        position=position,
        start_round=start_round,
        end_round=end_round,
    )._replace(local_stages=local_stages, result=result)


class Layers(NamedTuple):
    """What the search has found."""

    order: Array  # i32 [L], the most critical first
    number: Array  # i32 [], how many of them are sent
    chosen: Array  # bool [L]


def critical_layers(
    without: Callable[[Array], Array],
    with_only: Callable[[Array], Array],
    layers: int,
    threshold: Array | float,
) -> Layers:
    """Returns the layers that the backdoor needs; see `layer_poisoning`.

    Args:
      without: success rate f32 [] of the malicious model in which the layers that are
        not in bool [L] are benign.
      with_only: that of the benign model in which those in bool [L] are malicious.
      layers: L.
      threshold: of the malicious model's rate.
    """
    whole = without(jnp.ones(layers, bool))
    change = lax.map(lambda keep: without(keep) - whole, ~jnp.eye(layers, dtype=bool))
    order = jnp.argsort(change, stable=True)
    place = jnp.zeros(layers, jnp.int32).at[order].set(jnp.arange(layers))

    def lacks(at: tuple[Array, Array]) -> Array:
        count, reached = at
        return (reached < threshold * whole) & (count < layers)

    def more(at: tuple[Array, Array]) -> tuple[Array, Array]:
        count = at[0] + 1
        return count, with_only(place < count)

    count, _ = lax.while_loop(lacks, more, (jnp.int32(0), jnp.zeros_like(whole)))
    return Layers(order, count, place < count)


def crafted(
    chosen: Array,
    malicious: PyTree,
    benign: PyTree,
    center: PyTree,
    strength: Array | float,
) -> PyTree:
    """Returns the parameters that are sent, as a tree.

    Args:
      chosen: bool [L], the critical tensors in the order of the leaves.
      malicious, benign, center: trees m, b and g.
      strength: lambda.
    """
    rest = jnp.maximum(1 - strength, 0)
    poison = jax.tree.map(
        lambda m, b, g: g + strength * (m - g) + rest * (b - g),
        malicious,
        benign,
        center,
    )
    return _mixed(chosen, poison, benign)


def _mixed(chosen: Array, malicious: PyTree, benign: PyTree) -> PyTree:
    """The chosen tensors of the first tree, the others of the second."""
    leaves, structure = jax.tree.flatten(malicious)
    others = jax.tree.leaves(benign)
    pairs = enumerate(zip(leaves, others, strict=True))
    taken = [jnp.where(chosen[i], m, b) for i, (m, b) in pairs]
    return jax.tree.unflatten(structure, taken)


def _success(
    tools: LocalTools,
    params: PyTree,
    buffers: PyTree,
    trigger: str,
    position: Position,
    victim_class: int | None,
    target_class: int,
) -> Array:
    """The share f32 [] of the client's stamped images that become the target."""
    order = tools.data.order(None)

    def count(i, totals):
        batch = tools.data.read(order, i)
        _, height, width, channels = batch.images.shape
        shape = height, width, channels
        pattern = make_trigger(trigger, shape, tools.normalization, position=position)
        shown = stamp(batch.images, pattern, jnp.ones(len(batch.labels), bool))
        logits, _ = tools.model.apply(
            params, buffers, shown, train=False, mask=batch.mask
        )
        victims = batch.labels != target_class
        if victim_class is not None:
            victims = batch.labels == victim_class
        victims &= batch.mask
        hits = victims & (logits.argmax(1) == target_class)
        return totals[0] + hits.sum(), totals[1] + victims.sum()

    none = jnp.int32(0)
    hits, victims = lax.fori_loop(0, tools.data.batches, count, (none, none))
    return hits / jnp.maximum(victims, 1)


ENTRY = Entry(
    layer_poisoning,
    paper="Zhuang et al., ICLR 2024",
)
