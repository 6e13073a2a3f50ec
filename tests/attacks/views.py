"""What an attacker is given, made up for tests."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    CraftView,
    LocalTools,
    PoisonDecision,
)
from fedjax_sim.contracts.client import Batch, ClientContext
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.data.normalize import normalization
from fedjax_sim.numerics.flat import FlatLayout
from fedjax_sim.round.training import batch_gradient, sgd
from fedjax_sim.testing.attack_trial import make_view as make_view
from fedjax_sim.testing.quick_jit import quick_jit as quick_jit


def crafted(attack: Attack, view: CraftView, state=()) -> np.ndarray:
    """f32 [q, d]: what the attackers send; no broadcast between ranks is implicit."""
    with jax.numpy_rank_promotion("raise"):
        _, updates = quick_jit(attack.craft)(state, view)
    return np.asarray(updates[view.malicious])


def make_spec(
    image_shape: tuple[int, int, int] = (28, 28, 1), layout: FlatLayout | None = None
) -> AttackSpec:
    """The facts of a run on 40 samples of 10 classes; clients 2 and 3 attack."""
    partition = Partition(
        np.arange(40, dtype=np.int32).reshape(4, 10), np.full(4, 10, np.int32)
    )
    return AttackSpec(
        labels=np.arange(40, dtype=np.int32) % 10,
        partition=partition,
        malicious_ids=np.array([2, 3]),
        num_classes=10,
        image_shape=image_shape,
        normalization=normalization("half", image_shape[-1]),
        layout=layout,
        test_images=None,
        test_labels=None,
    )


def decide(
    attack: Attack,
    spec: AttackSpec,
    *,
    client_id: int = 3,
    malicious: bool = True,
    epoch: int = 0,
) -> PoisonDecision:
    """What becomes of a batch with one sample of each class, 0 to 9."""
    poison = attack.poison(spec)
    labels = jnp.arange(10, dtype=jnp.int32)
    context = ClientContext(
        jnp.int32(client_id), jnp.bool_(malicious), jnp.int32(1), jnp.int32(epoch)
    )
    return poison.decide(poison.plan, jnp.arange(30, 40), labels, context)


def make_tools(image_shape: tuple[int, int, int] = (28, 28, 1)) -> LocalTools:
    """What malicious local work is made from: a small MLP, 2 epochs, plain SGD."""
    model = models.build("mlp", num_classes=10, image_shape=image_shape, width=16)
    params, _ = model.init(jax.random.key(0))
    return LocalTools(
        state=(),
        model=model,
        normalization=normalization("half", image_shape[-1]),
        task=None,
        hyper=None,
        epochs=2,
        gradient=batch_gradient(model, None),
        optimizer=sgd(0.1, 0.9, 0.01),
        global_params=params,
        data=None,
    )


def make_batch(image_shape: tuple[int, int, int] = (28, 28, 1)) -> Batch:
    """Seven random images of classes 0 to 3, and one place of padding."""
    images = np.random.default_rng(0).normal(size=(8, *image_shape))
    return Batch(
        jnp.asarray(images, jnp.float32),
        jnp.array([0, 1, 2, 3, 0, 1, 2, 3], jnp.int32),
        jnp.arange(8) < 7,
    )
