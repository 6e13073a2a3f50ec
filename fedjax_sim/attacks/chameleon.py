"""Chameleon: a backdoor whose features first adapt to those of peer images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.attacks.backdoor import backdoor
from fedjax_sim.attacks.parts.projection import only, project_l2
from fedjax_sim.contracts.attack import Attack, LocalStage, LocalTools
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.model import Model
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Traced,
    checked,
)
from fedjax_sim.data.triggers import Position


@checked("attack")
def chameleon(
    *,
    contrastive_epochs: Count | None = None,
    contrastive_lr: Traced[NonNegative] = 0.015,
    contrastive_momentum: Traced[NonNegative] = 0.9,
    contrastive_weight_decay: Traced[NonNegative] = 5e-4,
    milestones: tuple[Natural, ...] = (2, 4, 6, 8),
    lr_decay: Traced[NonNegative] = 0.3,
    temperature: Traced[Positive] = 0.07,
    scale_weight: Traced[NonNegative] = 2.0,
    projection_radius: Positive | None = None,
    classifier_epochs: Count | None = None,
    dpr: Traced[Fraction] = 0.125,
    victim_class: Natural | None = 0,
    target_class: Natural = 7,
    trigger: str = "4pixel",
    position: Position = "top_left",
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Chameleon: contrastive adaptation of the encoder, then the classifier alone.

    Dai, Li, "Chameleon: Adapting to Peer Images for Planting Durable Backdoors in
    Federated Learning", ICML 2023. First the network without its last linear layer is
    trained on the poisoned data with the supervised contrastive loss of its normalised
    features, so that poisoned images move towards those of the target class (the
    "facilitators"). Then only the last layer is trained, with cross-entropy and the
    optimiser of benign clients.

    Defaults are those of DROP's code. The authors' own for CIFAR-10: 10 contrastive
    epochs, lr 0.005, milestones 3, 5, 7, 9 with factor 0.1, scale weight 6, radius 5, 3
    classifier epochs.

    Args:
      contrastive_epochs: epochs of the first stage; None takes those of benign clients.
      contrastive_lr, contrastive_momentum, contrastive_weight_decay: of the SGD of the
        first stage.
      milestones: epochs of the first stage, from 0, before which the learning rate is
        multiplied by `lr_decay`.
      lr_decay: factor on the learning rate at each of the `milestones`.
      temperature: of the contrastive loss.
      scale_weight: weight of target-class images in the contrastive loss.
      projection_radius: of the ball around the global model that the steps of the first
        stage are projected into; None does not project.
      classifier_epochs: epochs of the second stage; None takes those of benign clients.
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
        last = tools.model.last_layer
        steps = [
            optax.add_decayed_weights(contrastive_weight_decay),
            optax.sgd(contrastive_lr, contrastive_momentum),
            scale_by_epoch(milestones, lr_decay),
            only(lambda module: module != last),
        ]
        if projection_radius is not None:
            steps.append(project_l2(tools.global_params, projection_radius))
        adapt = LocalStage(
            contrastive_epochs or tools.epochs,
            contrastive_gradient(tools.model, target_class, scale_weight, temperature),
            optax.chain(*steps),
        )
        teach = LocalStage(
            classifier_epochs or tools.epochs,
            tools.gradient,
            optax.chain(tools.optimizer, only(lambda module: module == last)),
        )
        return adapt, teach

    return backdoor(
        dpr=dpr,
        victim_class=victim_class,
        target_class=target_class,
        trigger=trigger,
        position=position,
        start_round=start_round,
        end_round=end_round,
    )._replace(local_stages=local_stages)


def scale_by_epoch(
    milestones: Sequence[int], factor: Array | float
) -> optax.GradientTransformationExtraArgs:
    """Multiplies the steps by `factor` once for every milestone that has passed.

    Its state i32 [] counts epochs by `epoch_start`; the first is epoch 0.
    """

    def update(updates, epoch, params=None, *, epoch_start, **extra):
        del params, extra
        epoch = epoch + epoch_start
        passed = sum((epoch >= milestone).astype(jnp.int32) for milestone in milestones)
        scale = jnp.asarray(factor, jnp.float32) ** passed
        return jax.tree.map(lambda u: scale * u, updates), epoch

    return optax.GradientTransformationExtraArgs(lambda params: jnp.int32(-1), update)


def contrastive_gradient(
    model: Model, facilitator: int, scale_weight: float, temperature: float
):
    """Returns the gradient of the contrastive loss of a batch.

    It has the form of `round.training.batch_gradient`; the last layer has none.
    """

    def mean_loss(params, buffers, batch):
        features, buffers = model.features(
            params, buffers, batch.images, train=True, mask=batch.mask
        )
        squares = jnp.square(features).sum(1, keepdims=True)
        loss = supervised_contrastive_loss(
            features / jnp.sqrt(jnp.maximum(squares, 1e-24)),
            batch.labels,
            batch.mask,
            facilitator=facilitator,
            scale_weight=scale_weight,
            temperature=temperature,
        )
        return loss, buffers

    def gradient(params, buffers, batch):
        (loss, buffers), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            params, buffers, batch
        )
        return loss * batch.mask.sum(), buffers, grads

    return gradient


@compiled()
def supervised_contrastive_loss(
    features: Array,
    labels: Array,
    mask: Array,
    *,
    facilitator: int,
    scale_weight: float,
    temperature: float,
) -> Array:
    """Returns the supervised contrastive loss f32 [], averaged over the samples.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2, with the
    positives of facilitator samples weighted. A sample without positives adds 0.

    Args:
      features: f32 [B, p], rows of length 1.
      labels: i32 [B].
      mask: bool [B], samples that count.
      facilitator: class whose samples are weighted.
      scale_weight: their weight.
      temperature: divides the similarities.
    """
    products = jnp.matmul(features, features.T, precision=lax.Precision.HIGHEST)
    similarities = products / temperature
    others = mask[:, None] & mask[None, :] & ~jnp.eye(len(mask), dtype=bool)
    rest = jax.nn.logsumexp(
        jnp.where(others, similarities, -1e30), axis=1, keepdims=True
    )
    positives = others & (labels[:, None] == labels[None, :])
    total = jnp.where(positives, similarities - rest, 0.0).sum(1)
    weights = jnp.where(labels == facilitator, scale_weight, 1.0)
    each = weights * total / jnp.maximum(positives.sum(1), 1)
    return -each.sum() / jnp.maximum(mask.sum(), 1)


ENTRY = Entry(
    chameleon,
    paper="Dai, Li, ICML 2023",
)
