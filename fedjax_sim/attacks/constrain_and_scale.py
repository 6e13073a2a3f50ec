"""Constrain and scale: a backdoor trained near the global model, then scaled."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.projection import norm
from fedjax_sim.contracts.attack import Attack, CraftView, LocalStage, LocalTools
from fedjax_sim.contracts.client import Batch, GradientFn
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
from fedjax_sim.numerics.distances import row_norms
from fedjax_sim.round.training import sgd

PyTree = Any
Anomaly = Literal["l2", "cosine", "none"]


@checked("attack")
def constrain_and_scale(
    *,
    alpha: Traced[Fraction] = 0.7,
    anomaly: Anomaly = "l2",
    scale: Traced[Positive] | None = None,
    norm_bound: Traced[Positive] | None = None,
    epochs: Count | None = None,
    lr: Traced[Positive] | None = None,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Constrain and scale: attackers minimise alpha L_class + (1 - alpha) L_ano.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning",
    AISTATS 2020, section 4.3 and equation 4. L_ano keeps the model near the global one;
    the update is then multiplied, so that it takes the place of the global model.

    Args:
      alpha: weight of the loss on the data, poisoned and clean. (The default is ours.)
      anomaly: L_ano: `l2` the distance of all parameters to the global ones, not
        squared (the authors' code); `cosine` one minus their cosine (the paper); `none`
        leaves alpha L_class, as the code of FLPoison, whose term has no gradient and
        whose scale is not divided.
      scale: of the update, divided among the attackers of a round; None is n / eta, the
        clients of the round over the server's rate, which replaces FedAvg's model.
      norm_bound: the scaled update is shortened to it; None leaves it.
      epochs: of the attackers; None is as many as benign clients train.
      lr: their learning rate; None is that of benign clients. (The authors' falls as
        the backdoor succeeds.)
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
        gradient = constrained(tools.gradient, tools.global_params, alpha, anomaly)
        optimizer = tools.optimizer
        if lr is not None:
            hyper = tools.hyper
            optimizer = sgd(lr, hyper.momentum, hyper.weight_decay)
        return (LocalStage(epochs or tools.epochs, gradient, optimizer),)

    send = multiplied(scale, shared=anomaly != "none")

    def craft(state: PyTree, view: CraftView) -> tuple[PyTree, Array]:
        state, crafted = send(state, view)
        if norm_bound is not None:
            norms = row_norms(crafted)[:, None]
            long = norms > norm_bound
            crafted = jnp.where(long, crafted * (norm_bound / norms), crafted)
        return state, crafted

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


def constrained(
    gradient: GradientFn, center: PyTree, alpha: Array | float, anomaly: Anomaly
) -> GradientFn:
    """Returns the gradient of alpha times a loss plus 1 - alpha times the distance.

    Args:
      gradient: of the loss of a batch.
      center: tree of the global model.
      alpha: see `constrain_and_scale`.
      anomaly: which distance; its gradient at the global model is 0.
    """

    def distance(params: PyTree) -> Array:
        if anomaly == "cosine":
            products = jax.tree.map(lambda a, b: (a * b).sum(), params, center)
            lengths = norm(params) * norm(center)
            product = sum(jax.tree.leaves(products))
            return 1 - product / jnp.where(lengths > 0, lengths, 1.0)
        offset = jax.tree.map(jnp.subtract, params, center)
        squares = sum(jnp.square(x).sum() for x in jax.tree.leaves(offset))
        # The gradient of a root at 0 is no number.
        away = squares > 0
        return jnp.where(away, jnp.sqrt(jnp.where(away, squares, 1.0)), 0.0)

    def of_batch(params: PyTree, buffers: PyTree, batch: Batch):
        loss, buffers, grads = gradient(params, buffers, batch)
        pulls = jax.tree.map(jnp.zeros_like, grads)
        if anomaly != "none":
            pulls = jax.grad(distance)(params)
        mix = lambda g, pull: alpha * g + (1 - alpha) * pull
        return loss, buffers, jax.tree.map(mix, grads, pulls)

    return of_batch


ENTRY = Entry(
    constrain_and_scale,
    paper="Bagdasaryan et al., AISTATS 2020",
)
