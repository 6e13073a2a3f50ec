"""Distilling the survivors' models into a fresh one: the third part of DROP.

Syros et al. 2025 (DROP, arXiv 2502.07011), section 4.3, eqs. 8 to 10, and C.2, adapted
from MAZE (Kariyappa, Prakash, Qureshi, CVPR 2021) with white-box gradients. A
generator G makes images on which the clone S still differs from the teachers T, the
mean logits of the surviving clients; a critic D keeps them near the server's seeds.
What S learns is what the survivors agree on, and a backdoor of a few is diluted.

Letters: `B` batch, `C` classes, `m` seeds, `n` clients, `d` parameters, `b` buffer
entries, `I` outer iterations, `R` replay capacity m + I B.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedjax_sim.contracts.defense import After, Cohort, RoundContext, included, root_of
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round.training import sgd

PyTree = Any
Loss = Literal["l1", "kl_div"]
FloatType = Literal["float32", "bfloat16"]
StorageType = Literal["float32", "bfloat16", "uint8"]
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # of all three networks
LOGIT_BOUND = 1000.0


class Schedule(NamedTuple):
    """When and how much is distilled, and how: options of `drop`.

    The names are those of the authors' configs.
    """

    every: int
    start_round: int
    num_seed: int
    budget: int
    batch_size: int
    iter_gen: int
    iter_clone: int
    iter_exp: int
    latent_dim: int
    lr_clone: float
    lr_gen: float
    lr_dis: float
    alpha_gan: float
    lambda1: float
    loss_type: Loss
    temperature: float
    num_repeat_real: int
    clone_init_with_global: bool
    ensemble: bool
    prev_global_weight: float
    frac_recover_acc: float | None
    log_iter: int
    teacher_dtype: FloatType
    replay_dtype: StorageType

    @property
    def queries(self) -> int:
        """Of an iteration: ten of eleven per generator step are a relic of MAZE."""
        return self.batch_size * (self.iter_clone - 1 + 11 * self.iter_gen)

    @property
    def iterations(self) -> int:
        """I."""
        return self.budget // self.queries

    def due(self, round_: Array | int) -> Array | bool:
        """Whether the round ends with a distillation."""
        return (round_ % self.every == 0) & (round_ >= self.start_round)


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
    images: Array  # [R, H, W, C], replay, in the storage type
    targets: Array  # f32 [R, C]
    length: Array  # i32 [], filled entries


# ------------------------------------------------------------------------- losses


def clone_loss(teacher: Array, student: Array, kind: Loss, temperature: float) -> Array:
    """How far logits f32 [B, C] are apart.

    `l1` is the mean over batch and classes, as coded; eq. 10 sums over the classes.
    `kl_div` is temperature^2 KL(teacher || student) at that temperature.
    """
    if kind == "l1":
        return jnp.abs(teacher - student).mean()
    p = jax.nn.log_softmax(teacher / temperature)
    q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * (jnp.exp(p) * (p - q)).sum(-1).mean()


def gradient_penalty(critic: Callable[[Array], Array], points: Array) -> Array:
    """WGAN-GP (Gulrajani et al. 2017): mean over images of (||grad|| - 1)^2.

    Args:
      critic: images f32 [B, H, W, C] -> map f32 [B, ...], of which the mean counts.
      points: between real and made images.
    """

    def total(x):
        out = critic(x)
        return out.reshape(out.shape[0], -1).mean(1).sum()

    gradients = jax.grad(total)(points)
    return ((_lengths(gradients) - 1.0) ** 2).mean()


def _lengths(images: Array) -> Array:
    flat = images.reshape(images.shape[0], -1)
    return jnp.linalg.norm(flat, axis=1)


def combine(previous: Array, random: Array, alpha: Array | float) -> Array:
    """alpha random + (1 - alpha) previous."""
    return alpha * random + (1.0 - alpha) * previous


def trustworthy_logits(logits: Array) -> Array:
    """Returns bool [n]: members of f32 [n, m, C] with all logits within +-1000."""
    return (jnp.abs(logits) < LOGIT_BOUND).all((1, 2))


# ----------------------------------------------------------------------- teachers


class Ensemble(NamedTuple):
    """Models whose mean logits teach: the first `num_members` of `order`."""

    params: Array  # f32 [n, d]
    buffers: Array  # f32 [n, b]
    order: Array  # i32 [n]
    num_members: Array  # i32 []


def ensemble(params: Array, buffers: Array, member: Array) -> Ensemble:
    """Returns the ensemble of the rows with `member` (bool [n])."""
    return Ensemble(params, buffers, jnp.argsort(~member, stable=True), member.sum())


def teacher_logits(network: Network, dtype: jnp.dtype) -> Callable:
    """Returns `(images, ensemble) -> mean logits f32 [B, C]`.

    One member after the other, so that a member left out costs nothing and memory
    does not grow with the ensemble. Differentiable in the images alone: the backward
    pass runs each member again instead of keeping its activations.
    """

    def one(i: Array, images: Array, members: Ensemble) -> Array:
        row = members.order[i]
        cast = lambda x: x.astype(dtype)
        logits = network.logits(
            cast(members.params[row]), cast(members.buffers[row]), cast(images)
        )
        return logits.astype(jnp.float32)

    @jax.custom_vjp
    def mean(images, members):
        shape = jax.eval_shape(one, 0, images, members)
        zero = jnp.zeros(shape.shape)
        add = lambda i, total: total + one(i, images, members)
        return lax.fori_loop(0, members.num_members, add, zero) / members.num_members

    def forward(images, members):
        return mean(images, members), (images, members)

    def backward(saved, gradient):
        images, members = saved

        def add(i, total):
            _, pull = jax.vjp(lambda x: one(i, x, members), images)
            return total + pull(gradient / members.num_members)[0]

        total = lax.fori_loop(0, members.num_members, add, jnp.zeros_like(images))
        return total, None

    mean.defvjp(forward, backward)
    return mean


# ----------------------------------------------------------------- one iteration


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
    s = schedule
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * index / s.iterations))
    step = lambda learner, rate, loss: _step(learner, rate * cosine, loss)
    loss = lambda t, out: clone_loss(t, out, s.loss_type, s.temperature)
    clone, generator, critic = state.clone, state.generator, state.critic
    disagreements, generated = [], []

    # The generator looks for images on which the clone is wrong. The clone is in
    # training mode in the very first iteration only (as coded).
    student_buffers = clone.buffers
    for k in range(s.iter_gen):

        def adversarial(params, buffers, z=draws.z[k], known=student_buffers):
            x, buffers = networks.generator(params, buffers, z, train=True)
            teacher = teach(x)
            answer = lambda train: (
                lambda: networks.clone(clone.params, known, x, train=train)
            )
            student, moved = lax.cond(index == 0, answer(True), answer(False))
            wrong = -loss(teacher, student)
            real, _ = networks.critic(critic.params, critic.buffers, x, train=True)
            total = wrong - s.alpha_gan * real.mean()
            return total, (buffers, (x, teacher, moved, wrong))

        generator, total, made = step(generator, s.lr_gen, adversarial)
        images, teacher, student_buffers, wrong = made
        disagreements.append(wrong)
        generated.append(total)
    clone = clone._replace(buffers=student_buffers)

    # The clone learns on made images, the critic to tell them from seeds. The first
    # images, and what the teachers say to them, are at hand.
    def make(z):
        images, _ = networks.generator(
            generator.params, generator.buffers, z, train=False
        )
        return images, teach(images)

    def alternate(carry, drawn):
        clone, critic, made = carry
        first, z, rows, shares = drawn
        images, teacher = lax.cond(first, lambda: made, lambda: make(z))

        def imitate(params, buffers):
            student, buffers = networks.clone(params, buffers, images, train=True)
            return loss(teacher, student), (buffers, ())

        clone, imitated, _ = step(clone, s.lr_clone, imitate)

        real = seeds[rows % seeds.shape[0]]
        share = shares[:, None, None, None]
        points = share * images + (1.0 - share) * real

        def judge(params, buffers):
            score = lambda x: networks.critic(params, buffers, x, train=True)[0]
            penalty = gradient_penalty(score, points)
            apart = score(images).mean() - score(real).mean()
            return apart + s.lambda1 * penalty, (buffers, penalty)

        critic, judged, penalty = step(critic, s.lr_dis, judge)
        return (clone, critic, (images, teacher)), (imitated, judged, penalty)

    first = jnp.arange(s.iter_clone) == 0
    drawn = first, draws.z[s.iter_gen - 1 :], draws.real, draws.mix
    (clone, critic, (images, teacher)), (imitated, judged, penalties) = lax.scan(
        alternate, (clone, critic, (images, teacher)), drawn
    )

    # Replay keeps the clone from forgetting what it has learned on earlier images.
    start = (state.length, 0, 0, 0)
    kept = lax.dynamic_update_slice(
        state.images, to_storage(images, state.images.dtype), start
    )
    targets = lax.dynamic_update_slice(state.targets, teacher, start[:2])

    def rehearse(clone, rows):
        x, t = from_storage(kept[rows]), targets[rows]

        def imitate(params, buffers):
            student, buffers = networks.clone(params, buffers, x, train=True)
            return loss(t, student), (buffers, ())

        clone, total, _ = step(clone, s.lr_clone, imitate)
        return clone, total

    clone, replayed = lax.scan(rehearse, clone, draws.replay)
    losses = Losses(
        jnp.array(disagreements),
        jnp.array(generated),
        imitated,
        judged,
        penalties,
        replayed,
    )
    length = state.length + images.shape[0]
    return Distillation(clone, generator, critic, kept, targets, length), losses


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


# ------------------------------------------------------------------------ the step


def distill(schedule: Schedule) -> After:
    """Returns the step that replaces the new global model by a distilled one.

    The root samples are the `num_seed` seeds and behind them, for early stopping, a
    validation split of the server. (The authors stop on test accuracy; that leaks.)
    """
    s = schedule

    def init(spec: FederationSpec) -> tuple[()]:
        height, width, _ = spec.network.image_shape
        if height != width or height < 8 or height % 4:
            raise InputError(
                "config.defense.name = 'drop': its generator makes square images with "
                f"sides of 8, 12, 16, ... pixels, the data has {height}x{width}"
            )
        return ()

    def apply(state, model, cohort, context):
        due = s.due(context.round)
        model = lax.cond(due, lambda: run(model, cohort, context), lambda: model)
        return state, model

    def run(model: GlobalModel, cohort: Cohort, context: RoundContext) -> GlobalModel:
        network = context.network
        height, _, channels = network.image_shape
        seeds = root_of(context).images[: s.num_seed]
        keys = jax.random.split(context.key, 4)
        apply_generator, generator = _gan_part(
            Generator(channels, height // 4, lowering=network.lowering),
            keys[0],
            jnp.zeros((1, s.latent_dim)),
        )
        apply_critic, critic = _gan_part(Critic(network.lowering), keys[1], seeds[:1])
        networks = Networks(network.model.apply, apply_generator, apply_critic)
        teach, members = _teachers(model, cohort, context, seeds)
        capacity = s.num_seed + s.iterations * s.batch_size
        known = _in_batches(lambda x: teach(x, members), seeds, s.batch_size)
        if s.clone_init_with_global:
            flat = GlobalModel(context.global_params, context.global_buffers)
        else:
            flat = GlobalModel(*map(ravel, network.model.init(keys[2])))
        clone = new_learner(
            network.layout.unravel(flat.params),
            network.buffer_layout.unravel(flat.buffers),
        )
        images = jnp.zeros((capacity, *network.image_shape), s.replay_dtype)
        images = images.at[: s.num_seed].set(to_storage(seeds, images.dtype))
        targets = jnp.zeros((capacity, known.shape[1])).at[: s.num_seed].set(known)
        start = Distillation(
            clone, generator, critic, images, targets, jnp.int32(s.num_seed)
        )

        def iterate(carry):
            i, state, _ = carry
            drawn = draw(
                jax.random.fold_in(keys[3], i),
                s,
                state.length + s.batch_size,
                capacity,
            )
            state, losses = outer_iteration(
                networks, s, lambda x: teach(x, members), seeds, state, drawn, i
            )
            shown = (i + 1) % max(s.iterations // 20, 1) == 0
            _show(shown, context.round, i + 1, s.iterations, losses)
            return i + 1, state, recovered(i + 1, state.clone)

        def recovered(done, clone) -> Array:
            """Whether the clone is good enough to stop early."""
            if s.frac_recover_acc is None:
                return jnp.bool_(False)
            share = s.frac_recover_acc
            checks = lambda done: done * s.queries // s.log_iter
            flat = GlobalModel(ravel(clone.params), ravel(clone.buffers))
            return lax.cond(
                checks(done) > checks(done - 1),
                lambda: accuracy(flat) >= share * accuracy(model),
                lambda: jnp.bool_(False),
            )

        def accuracy(flat: GlobalModel) -> Array:
            images = root_of(context).images[s.num_seed :]
            answer = _in_batches(
                lambda x: network.logits(*flat, x), images, s.batch_size
            )
            return (answer.argmax(1) == root_of(context).labels[s.num_seed :]).mean()

        _, end, _ = lax.while_loop(
            lambda carry: (carry[0] < s.iterations) & ~carry[2],
            iterate,
            (jnp.int32(0), start, jnp.bool_(False)),
        )
        distilled = GlobalModel(ravel(end.clone.params), ravel(end.clone.buffers))
        # A clone that diverged is of no use: the aggregate stays.
        finite = jnp.isfinite(distilled.params).all()
        finite &= jnp.isfinite(distilled.buffers).all()
        return jax.tree.map(
            lambda clone, aggregated: jnp.where(
                finite, combine(clone, aggregated, s.prev_global_weight), aggregated
            ),
            distilled,
            model,
        )

    def _teachers(model, cohort, context, seeds):
        """The survivors without those whose logits explode; else the aggregate."""
        network = context.network
        teach = teacher_logits(network, jnp.dtype(s.teacher_dtype))
        aggregated = ensemble(
            model.params[None], model.buffers[None], jnp.ones(1, bool)
        )
        if not s.ensemble:
            return teach, aggregated
        n = cohort.updates.shape[0]
        params = context.global_params + cohort.updates

        def trusted(i):
            logits = _in_batches(
                lambda x: network.logits(params[i], cohort.buffers[i], x),
                seeds,
                s.batch_size,
            )
            return trustworthy_logits(logits[None])[0]

        member = included(cohort) & lax.map(trusted, jnp.arange(n))
        # With nobody left, the aggregate stands in for the first row.
        nobody = ~member.any()
        params = params.at[0].set(jnp.where(nobody, model.params, params[0]))
        buffers = cohort.buffers.at[0].set(
            jnp.where(nobody, model.buffers, cohort.buffers[0])
        )
        return teach, ensemble(params, buffers, member.at[0].set(member[0] | nobody))

    return After(init, apply)


def replay_bytes(schedule: Schedule) -> Callable:
    """Returns `(spec) -> bytes`: the replay buffer and the survivors' models."""
    s = schedule

    def memory(spec: FederationSpec) -> int:
        pixel = jnp.dtype(s.replay_dtype).itemsize
        image = math.prod(spec.network.image_shape) * pixel
        entry = image + 4 * spec.network.num_classes
        replay = (s.num_seed + s.iterations * s.batch_size) * entry
        return replay + 4 * spec.cohort_size * spec.layout.size

    return memory


def _gan_part(module: Any, key: Array, example: Array):
    """Returns the apply function of a flax module and a fresh learner."""
    variables = module.init(key, example)

    def apply(params, buffers, x, *, train):
        variables = {"params": params, "batch_stats": buffers}
        if not train or not buffers:
            return module.apply(variables, x, train=train), buffers
        out, changed = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return out, changed["batch_stats"]

    return apply, new_learner(variables["params"], variables.get("batch_stats", {}))


def _in_batches(function: Callable, images: Array, size: int) -> Array:
    """Maps `function` over images, `size` at a time; returns f32 [m, ...]."""
    count = len(images)
    size = min(size, count)
    parts = math.ceil(count / size)
    padded = jnp.pad(images, [(0, parts * size - count), (0, 0), (0, 0), (0, 0)])
    out = lax.map(function, padded.reshape(parts, size, *images.shape[1:]))
    return out.reshape(parts * size, *out.shape[2:])[:count]


def _show(shown: Array, round_: Array, done: Array, total: int, losses: Losses) -> None:
    """Tells a person how far a long distillation is."""

    def tell(shown, round_, done, clone, replay):
        if shown:
            note(
                f"round {round_}: distillation {done}/{total}  "
                f"clone loss {clone:.4f}  replay loss {replay:.4f}"
            )

    jax.debug.callback(
        tell, shown, round_, done, losses.clone.mean(), losses.replay.mean()
    )
