"""LeadFL's backdoor: two losses on every batch, mixed by MGDA or by a fixed share."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.tree_utils import tree_vdot

from fedjax_sim.attacks.parts.boosting import copy_sources
from fedjax_sim.attacks.parts.options import active_rounds, require_classes
from fedjax_sim.attacks.parts.projection import norm
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    CraftView,
    LocalStage,
    LocalTools,
)
from fedjax_sim.contracts.dataset import Normalization, Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Fraction, Natural, checked
from fedjax_sim.data.triggers import TRIGGERS, Values, stamp

Pattern = Literal["9pixel", "leadfl_1pixel"]
Mixing = Literal["mgda", "fixed"]
LossScale = Literal["loss", "loss+", "none", "l2"]


@checked("attack")
def leadfl_backdoor(
    *,
    target_class: Natural = 8,
    trigger: Pattern = "9pixel",
    trigger_values: Values = "raw",
    poisoned_fraction: Fraction = 1.0,
    mixing: Mixing = "mgda",
    loss_scale: LossScale = "loss",
    clean_weight: Fraction = 0.5,
    copies: Count = 1,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """The backdoor of LeadFL and FL-WBC, as in LeadFL's code.

    Zhu, Roos, Chen, "LeadFL: Client Self-Defense against Model Poisoning in Federated
    Learning", ICML 2023; Sun et al., "FL-WBC", NeurIPS 2021. Each batch is used twice:
    clean, and with trigger and target label on its first samples. One step follows the
    mixture of the two gradients; optimiser and epochs are those of benign clients.
    (Published rates count test images of the target class too: `asr_all`.)

    Args:
      target_class: the label the backdoor asks for.
      trigger: nine pixels, or one.
      trigger_values: of the trigger's pixels: `raw` in the scale of the images, or
        `code` as in the published runs; see `fedjax_sim.data.triggers.nine_pixel`.
      poisoned_fraction: share of a batch that gets the trigger in the second use.
      mixing: `mgda` weighs the losses for each step by Sener and Koltun's rule
        (NeurIPS 2018), see `mgda_weights`; `fixed` by `clean_weight`.
      loss_scale: what MGDA divides the gradients by (the code: `loss` for 28x28
        images, `loss+` for CIFAR-10).
      clean_weight: weight of the clean loss with `fixed`.
      copies: how many updates of a round become that of the first attacker, at least
        all of the attackers (1: each sends its own). They displace those of benign
        clients, as coded; running statistics stay.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, a trigger that does not fit the images, a
        target outside the data set, an empty window.
    """

    def make_trigger(shape, normalization: Normalization) -> Trigger:
        return TRIGGERS[trigger](shape, normalization, values=trigger_values)

    def test(spec: AttackSpec) -> BackdoorTest:
        require_classes(spec, target_class=target_class)
        pattern = make_trigger(spec.image_shape, spec.normalization)
        return BackdoorTest(pattern, None, target_class)

    def local_stages(tools: LocalTools) -> tuple[LocalStage, ...]:
        def gradient(params, buffers, batch):
            pattern = make_trigger(batch.images.shape[1:], tools.normalization)
            size = jnp.maximum(batch.mask.sum(), 1)
            # Half to even, as Python rounds.
            count = jnp.round(poisoned_fraction * size)
            chosen = jnp.arange(len(batch.mask)) < count
            triggered = batch._replace(
                images=stamp(batch.images, pattern, chosen),
                labels=jnp.where(chosen, target_class, batch.labels),
            )
            clean_loss, buffers, clean = tools.gradient(params, buffers, batch)
            loss, buffers, backdoor = tools.gradient(params, buffers, triggered)
            if mixing == "fixed":
                weights: tuple[Array | float, Array | float]
                weights = 1 - clean_weight, clean_weight
            else:
                losses = loss / size, clean_loss / size
                weights = mgda_weights(backdoor, clean, *losses, loss_scale)
            mix = lambda b, n: weights[0] * b + weights[1] * n
            return mix(loss, clean_loss), buffers, jax.tree.map(mix, backdoor, clean)

        return (LocalStage(tools.epochs, gradient, tools.optimizer),)

    def displaced(view: CraftView) -> Array:
        sources = copy_sources(view.malicious, view.present, view.client_ids, copies)
        return view.malicious | (sources != jnp.arange(len(sources)))

    def copied(state, view):
        sources = copy_sources(view.malicious, view.present, view.client_ids, copies)
        return state, view.updates[sources]

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        local_stages=local_stages,
        craft=None if copies == 1 else copied,
        takes_over=None if copies == 1 else displaced,
        test=test,
    )


def mgda_weights(
    backdoor: optax.Params,
    clean: optax.Params,
    backdoor_loss: Array,
    clean_loss: Array,
    loss_scale: LossScale,
) -> tuple[Array, Array]:
    """Returns the weights of backdoor and clean loss, f32 [] each, that add up to 1.

    They minimise the norm of the mixture of the scaled gradients (the closed form of
    the multiple gradient descent algorithm for two tasks). Each gradient is divided by
    its loss (`loss`), loss times norm (`loss+`), at most 10 each, by its norm (`l2`),
    or not (`none`); the weights belong to the losses as they are.

    Args:
      backdoor, clean: gradients.
      backdoor_loss, clean_loss: f32 [], mean losses.
      loss_scale: see above.
    """

    def scaled(gradient, loss):
        sizes: dict[str, Callable[[], Array]] = {
            "loss": lambda: jnp.minimum(loss, 10.0),
            "loss+": lambda: jnp.minimum(loss * norm(gradient), 10.0),
            "none": lambda: jnp.float32(1.0),
            "l2": lambda: norm(gradient),
        }
        size = sizes[loss_scale]()
        return jax.tree.map(lambda g: g / (size + 1e-5), gradient)

    x, y = scaled(backdoor, backdoor_loss), scaled(clean, clean_loss)
    xx, xy, yy = (tree_vdot(*pair) for pair in ((x, x), (x, y), (y, y)))
    between = (yy - xy) / (xx + yy - 2 * xy)
    weight = jnp.where(xy >= xx, 0.999, jnp.where(xy >= yy, 0.001, between))
    return weight, 1 - weight


ENTRY = Entry(
    leadfl_backdoor,
    paper="Zhu et al. (LeadFL), ICML 2023; Sun et al., NeurIPS 2021",
)
