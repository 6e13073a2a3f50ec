"""One outer iteration of DROP's distillation: generator, clone and critic, replay.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.3 and C.2, adapted from MAZE
(Kariyappa, Prakash, Qureshi, CVPR 2021) with white-box gradients. Letters: `B` batch,
`C` classes, `m` seeds, `I` outer iterations, `R` replay capacity m + I B.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.defenses.drop.losses import clone_loss, gradient_penalty
from fedjax_sim.defenses.drop.schedule import Schedule
from fedjax_sim.round.training import sgd

PyTree = Any
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of all three networks


class Learner(NamedTuple):
    """A network in training."""

    params: PyTree
    buffers: PyTree
    optimizer: PyTree


class Draws(NamedTuple):
    """The randomness of one outer iteration."""

    z: Array  # f32 [iter_gen + iter_clone - 1, B, latent_dim]
    real: Array  # i32 [iter_clone, B], seeds that the critic sees
    mix: Array  # f32 [iter_clone, B], share of the made image in the penalty's point
    replay: Array  # i32 [iter_exp, B], entries of the replay buffer


class Losses(NamedTuple):
    """The losses of one outer iteration."""

    disagreement: Array  # f32 [iter_gen], minus the clone's loss
    generator: Array  # f32 [iter_gen]
    clone: Array  # f32 [iter_clone]
    critic: Array  # f32 [iter_clone], penalty included
    penalty: Array  # f32 [iter_clone], without its factor
    replay: Array  # f32 [iter_exp]


class Distillation(NamedTuple):
    """What a distillation carries from iteration to iteration."""

    clone: Learner
    generator: Learner
    critic: Learner
    images: Array  # [R, H W C], replay, in the storage type; a TPU would fill W up
    targets: Array  # f32 [R, C]
    length: Array  # i32 [], filled entries


class Networks(NamedTuple):
    """The three networks as `(params, buffers, x, train) -> (out, buffers)`."""

    clone: Callable[..., tuple[Array, PyTree]]
    generator: Callable[..., tuple[Array, PyTree]]
    critic: Callable[..., tuple[Array, PyTree]]


def outer_iteration(
    networks: Networks,
    schedule: Schedule,
    teach: Callable[[Array], Array],
    seeds: Array,
    state: Distillation,
    draws: Draws,
    index: Array,
) -> tuple[Distillation, Losses]:
    """One outer iteration: generator, then clone and critic, then replay.

    Args:
      networks: clone, generator, critic.
      schedule: steps, learning rates and loss.
      teach: images f32 [B, H, W, C] -> logits f32 [B, C].
      seeds: f32 [m, H, W, C].
      state: before the iteration.
      draws: its randomness.
      index: i32 [], from 0.
    """
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * index / schedule.iterations))
    step = lambda learner, rate, loss: _step(learner, rate * cosine, loss)
    work = _Work(networks, schedule, teach, step)
    state, made, disagreements, generated = _train_generator(work, state, draws, index)
    state, made, imitated, judged, penalties = _train_clone_and_critic(
        work, seeds, state, made, draws
    )
    state, replayed = _replay(work, state, made, draws)
    losses = Losses(
        jnp.array(disagreements),
        jnp.array(generated),
        imitated,
        judged,
        penalties,
        replayed,
    )
    return state, losses


class _Work(NamedTuple):
    """What the three parts of an iteration share."""

    networks: Networks
    schedule: Schedule
    teach: Callable[[Array], Array]
    step: Callable[..., tuple[Learner, Array, Any]]  # (learner, rate, loss)

    def loss(self, teacher: Array, student: Array) -> Array:
        """How far the clone is from its teachers, f32 []."""
        s = self.schedule
        return clone_loss(teacher, student, s.loss_type, s.temperature)


class _Made(NamedTuple):
    """Images that were made, and what the teachers say to them."""

    images: Array  # f32 [B, H, W, C]
    teacher: Array  # f32 [B, C]


def _train_generator(
    work: _Work, state: Distillation, draws: Draws, index: Array
) -> tuple[Distillation, _Made, list[Array], list[Array]]:
    """The generator looks for images on which the clone is wrong (eq. 8).

    The clone is in training mode in the very first iteration only (as coded).
    """
    networks, s = work.networks, work.schedule
    clone, generator, critic = state.clone, state.generator, state.critic
    disagreements, generated = [], []
    student_buffers = clone.buffers
    for k in range(s.iter_gen):

        def adversarial(params, buffers, z=draws.z[k], known=student_buffers):
            x, buffers = networks.generator(params, buffers, z, train=True)
            teacher = work.teach(x)
            answer = lambda train: (
                lambda: networks.clone(clone.params, known, x, train=train)
            )
            student, moved = lax.cond(index == 0, answer(True), answer(False))
            wrong = -work.loss(teacher, student)
            real, _ = networks.critic(critic.params, critic.buffers, x, train=True)
            total = wrong - s.alpha_gan * real.mean()
            return total, (buffers, (x, teacher, moved, wrong))

        generator, total, made = work.step(generator, s.lr_gen, adversarial)
        images, teacher, student_buffers, wrong = made
        disagreements.append(wrong)
        generated.append(total)
    clone = clone._replace(buffers=student_buffers)
    state = state._replace(clone=clone, generator=generator)
    return state, _Made(images, teacher), disagreements, generated


def _train_clone_and_critic(
    work: _Work, seeds: Array, state: Distillation, made: _Made, draws: Draws
) -> tuple[Distillation, _Made, Array, Array, Array]:
    """The clone learns on made images (eq. 10), the critic to tell them from seeds.

    The first images, and what the teachers say to them, are at hand.
    """
    networks, s = work.networks, work.schedule
    generator = state.generator

    def make(z):
        images, _ = networks.generator(
            generator.params, generator.buffers, z, train=False
        )
        return _Made(images, work.teach(images))

    def alternate(carry, drawn):
        clone, critic, made = carry
        first, z, rows, shares = drawn
        made = lax.cond(first, lambda: made, lambda: make(z))
        images, teacher = made

        def imitate(params, buffers):
            student, buffers = networks.clone(params, buffers, images, train=True)
            return work.loss(teacher, student), (buffers, ())

        clone, imitated, _ = work.step(clone, s.lr_clone, imitate)

        real = seeds[rows % seeds.shape[0]]
        share = shares[:, None, None, None]
        points = share * images + (1.0 - share) * real

        def judge(params, buffers):
            score = lambda x: networks.critic(params, buffers, x, train=True)[0]
            penalty = gradient_penalty(score, points)
            apart = score(images).mean() - score(real).mean()
            return apart + s.lambda1 * penalty, (buffers, penalty)

        critic, judged, penalty = work.step(critic, s.lr_dis, judge)
        return (clone, critic, made), (imitated, judged, penalty)

    first = jnp.arange(s.iter_clone) == 0
    drawn = first, draws.z[s.iter_gen - 1 :], draws.real, draws.mix
    (clone, critic, made), (imitated, judged, penalties) = lax.scan(
        alternate, (state.clone, state.critic, made), drawn
    )
    state = state._replace(clone=clone, critic=critic)
    return state, made, imitated, judged, penalties


def _replay(
    work: _Work, state: Distillation, made: _Made, draws: Draws
) -> tuple[Distillation, Array]:
    """Replay keeps the clone from forgetting what it has learned on earlier images."""
    start = (state.length, 0)
    stored = to_storage(made.images, state.images.dtype)
    size, *shape = stored.shape
    kept = lax.dynamic_update_slice(state.images, stored.reshape(size, -1), start)
    targets = lax.dynamic_update_slice(state.targets, made.teacher, start)

    def rehearse(clone, rows):
        x, t = from_storage(kept[rows].reshape(-1, *shape)), targets[rows]

        def imitate(params, buffers):
            student, buffers = work.networks.clone(params, buffers, x, train=True)
            return work.loss(t, student), (buffers, ())

        clone, total, _ = work.step(clone, work.schedule.lr_clone, imitate)
        return clone, total

    clone, replayed = lax.scan(rehearse, state.clone, draws.replay)
    length = state.length + made.images.shape[0]
    state = state._replace(clone=clone, images=kept, targets=targets, length=length)
    return state, replayed


def _step(learner: Learner, rate: Array, loss: Callable):
    """One SGD step; `loss(params, buffers) -> (value, (buffers, extra))`."""
    grad = jax.value_and_grad(loss, has_aux=True)
    (value, (buffers, extra)), gradient = grad(learner.params, learner.buffers)
    optimizer = sgd(rate, MOMENTUM, WEIGHT_DECAY)
    updates, state = optimizer.update(gradient, learner.optimizer, learner.params)
    params = optax.apply_updates(learner.params, updates)
    return Learner(params, buffers, state), value, extra


def new_learner(params: PyTree, buffers: PyTree) -> Learner:
    """A network with a fresh optimiser."""
    state = sgd(0.0, MOMENTUM, WEIGHT_DECAY).init(params)
    return Learner(params, buffers, state)


def to_storage(images: Array, dtype: jnp.dtype) -> Array:
    """Images in [-1, 1] in the type of the replay buffer."""
    if dtype == jnp.uint8:
        return jnp.rint((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
    return images.astype(dtype)


def from_storage(images: Array) -> Array:
    """The inverse of `to_storage`, f32."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images.astype(jnp.float32)


def draw(key: Array, schedule: Schedule, length: Array, capacity: int) -> Draws:
    """Draws the randomness of an outer iteration.

    Seeds and replay come without replacement from a fresh permutation; should one
    iteration need more than the permutation holds, it is read again.

    Args:
      key: of this iteration.
      schedule: sizes.
      length: i32 [], entries in the replay buffer, this iteration's included.
      capacity: R.
    """
    s = schedule
    z_key, real_key, mix_key, replay_key = jax.random.split(key, 4)
    size = s.batch_size

    def batches(key, available, capacity, count):
        rank = jax.random.uniform(key, (capacity,))
        order = jnp.argsort(jnp.where(jnp.arange(capacity) < available, rank, 2.0))
        whole = jnp.maximum(available // size, 1) * size  # full batches only
        place = jnp.arange(count * size) % whole % available
        return order[place].reshape(count, size)

    listed = s.num_seed * s.num_repeat_real
    return Draws(
        z=jax.random.normal(z_key, (s.iter_gen + s.iter_clone - 1, size, s.latent_dim)),
        real=batches(real_key, listed, listed, s.iter_clone) % s.num_seed,
        mix=jax.random.uniform(mix_key, (s.iter_clone, size)),
        replay=batches(replay_key, length, capacity, s.iter_exp),
    )
