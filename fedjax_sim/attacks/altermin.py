"""Alternating minimisation: benign steps, and now and then a boosted malicious one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.attacks.mislabelled_images import mislabelled_images, wrong_labels
from fedjax_sim.contracts.attack import Attack, AttackSpec, LocalStage, LocalTools
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, NonNegative, Positive, Traced, checked
from fedjax_sim.data.normalize import normalize

PyTree = Any


@checked("attack")
def altermin(
    *,
    num_images: Count = 1,
    benign_steps: Count = 10,
    boost: Traced[Positive] = 10.0,
    rho: Traced[NonNegative] = 1e-4,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Attackers alternate between their own data and a few images with wrong labels.

    Bhagoji, Chakraborty, Mittal, Calo, "Analyzing Federated Learning through an
    Adversarial Lens", ICML 2019, section 4.2. An attacker first trains as a benign
    client does, and then again from the global model (the first batch goes into the
    return to it): after every `benign_steps` steps, held near the benign result, comes
    one step on the images, if their loss is not 0 yet. The images are the first of the
    test set with the wrong labels of `mislabelled_images`; success is theirs. For
    models without batch statistics.

    Args:
      num_images: how many of the test images.
      benign_steps: from one malicious step to the next.
      boost: factor on a malicious step; usually the clients of a round.
      rho: weight of rho / 2 |w - w_c|^2, w_c the benign result.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, fewer test images than `num_images`, an
        empty window; a model with batch statistics.
    """
    others = mislabelled_images(
        num_images=num_images, start_round=start_round, end_round=end_round
    )

    def init(spec: AttackSpec) -> tuple[Array, Array]:
        images = spec.test_images[:num_images]
        wrong = wrong_labels(spec.test_labels[:num_images], spec.num_classes)
        return normalize(jnp.asarray(images), spec.normalization), jnp.asarray(wrong)

    def local_stages(tools: LocalTools) -> tuple[LocalStage, ...]:
        images, labels = tools.state
        if tools.model.couples_samples:
            raise InputError(
                f"config.model.name: {tools.model.name!r} has batch statistics, and "
                "config.attack.name = 'altermin' trains on a few images alone"
            )

        def malicious(params: PyTree) -> Array:
            logits, _ = tools.model.apply(params, {}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean()

        own = alternate(
            tools.optimizer,
            malicious,
            benign_steps=benign_steps,
            step=boost * tools.hyper.learning_rate,
            rho=rho,
            start=tools.global_params,
        )
        return (
            LocalStage(tools.epochs, tools.gradient, tools.optimizer),
            LocalStage(tools.epochs, tools.gradient, own),
        )

    return Attack(
        knowledge=("own_data",),
        init=init,
        active=others.active,
        local_stages=local_stages,
        test=others.test,
    )


class Alternation(NamedTuple):
    """Where the alternation stands."""

    steps: Array  # i32 [], benign steps that were made, and one
    reference: PyTree  # w_c
    inner: PyTree  # state of the benign optimiser


def alternate(
    optimizer: optax.GradientTransformationExtraArgs,
    malicious: Callable[[PyTree], Array],
    *,
    benign_steps: int,
    step: Array | float,
    rho: Array | float,
    start: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of the alternation; w_c are the parameters at `init`.

    Args:
      optimizer: of benign steps.
      malicious: the loss f32 [] of parameters on the images.
      benign_steps: from one malicious step to the next.
      step: factor on its gradient, learning rate times boost.
      rho: see `altermin`.
      start: where the first call goes, whatever its gradient; None goes on from w_c.
    """

    def init(params: PyTree) -> Alternation:
        return Alternation(
            jnp.int32(0 if start is not None else 1), params, optimizer.init(params)
        )

    def update(grads: PyTree, state: Alternation, params: PyTree, **extra: Any):
        held = jax.tree.map(
            lambda g, w, c: g + rho * (w - c), grads, params, state.reference
        )
        moves, inner = optimizer.update(held, state.inner, params, **extra)
        moved = optax.apply_updates(params, moves)

        def with_malicious() -> PyTree:
            loss, own = jax.value_and_grad(malicious)(moved)
            take = jnp.where(loss > 0, step, 0.0)
            return jax.tree.map(lambda m, g: m - take * g, moves, own)

        due = state.steps % benign_steps == 0
        moves = lax.cond(due & (state.steps > 0), with_malicious, lambda: moves)
        if start is not None:
            first = state.steps == 0
            choose = lambda a, b: jnp.where(first, a, b)
            back = jax.tree.map(jnp.subtract, start, params)
            moves = jax.tree.map(choose, back, moves)
            inner = jax.tree.map(choose, state.inner, inner)
        return moves, Alternation(state.steps + 1, state.reference, inner)

    return optax.GradientTransformationExtraArgs(init, update)


ENTRY = Entry(
    altermin,
    paper="Bhagoji et al., ICML 2019",
)
