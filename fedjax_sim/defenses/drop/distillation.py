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
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import After, Cohort, RoundContext, included, root_of
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.progress import note
from fedjax_sim.defenses.drop.iteration import (
    Distillation,
    Losses,
    Networks,
    draw,
    new_learner,
    outer_iteration,
    to_storage,
)
from fedjax_sim.defenses.drop.record import (
    PICTURES,
    Record,
    no_curves,
    no_record,
    with_losses,
)
from fedjax_sim.defenses.drop.schedule import Schedule
from fedjax_sim.defenses.drop.teachers import (
    ensemble,
    teacher_logits,
    trustworthy_logits,
)
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.numerics.flat import ravel


def combine(previous: Array, random: Array, alpha: Array | float) -> Array:
    """alpha random + (1 - alpha) previous."""
    return alpha * random + (1.0 - alpha) * previous


def distill(schedule: Schedule) -> After:
    """Returns the step that replaces the new global model by a distilled one.

    The root samples are the `num_seed` seeds and behind them, for early stopping, a
    validation split of the server. (The authors stop on test accuracy; that leaks.)
    The state is the record of the newest distillation.
    """
    s = schedule

    def init(spec: FederationSpec) -> Record:
        height, width, _ = spec.network.image_shape
        if height != width or height < 8 or height % 4:
            raise InputError(
                "config.defense.name = 'drop': its generator makes square images with "
                f"sides of 8, 12, 16, ... pixels, the data has {height}x{width}"
            )
        return no_record(spec)

    def apply(state, model, cohort, context):
        due = s.due(context.round)
        often = jax.named_scope(f"one_in_{s.every}")  # for `experiment.arithmetic`
        with context.network.in_precision(), often:
            return lax.cond(
                due,
                lambda: run(state, model, cohort, context),
                lambda: (state, model),
            )

    def run(
        record: Record, model: GlobalModel, cohort: Cohort, context: RoundContext
    ) -> tuple[Record, GlobalModel]:
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
        teach, members, taught = _teachers(model, cohort, context, seeds)
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
        images = jnp.zeros((capacity, math.prod(network.image_shape)), s.replay_dtype)
        stored = to_storage(seeds, images.dtype).reshape(len(seeds), -1)
        images = images.at[: s.num_seed].set(stored)
        targets = jnp.zeros((capacity, known.shape[1])).at[: s.num_seed].set(known)
        start = Distillation(
            clone, generator, critic, images, targets, jnp.int32(s.num_seed)
        )

        def iterate(carry):
            i, state, curves, _ = carry
            drawn = draw(
                jax.random.fold_in(keys[3], i),
                s,
                state.length + s.batch_size,
                capacity,
            )
            state, losses = outer_iteration(
                networks, s, lambda x: teach(x, members), seeds, state, drawn, i
            )
            # Elsewhere a call of the host would keep the program from being lowered.
            if network.backend == "cpu":
                shown = (i + 1) % max(s.iterations // 20, 1) == 0
                _show(shown, context.round, i + 1, s.iterations, losses)
            curves = with_losses(curves, i, s.iterations, losses)
            return i + 1, state, curves, recovered(i + 1, state.clone)

        def recovered(done, clone) -> Array:
            """Whether the clone is good enough to stop early."""
            if s.frac_recover_acc is None:
                return jnp.bool_(False)
            share = s.frac_recover_acc
            checks = lambda done: done * s.queries // s.log_iter
            flat = GlobalModel(ravel(clone.params), ravel(clone.buffers))
            own = slice(s.num_seed, None)
            return lax.cond(
                checks(done) > checks(done - 1),
                lambda: accuracy(flat, own) >= share * accuracy(model, own),
                lambda: jnp.bool_(False),
            )

        def accuracy(flat: GlobalModel, part: slice) -> Array:
            root = root_of(context)
            answer = _in_batches(
                lambda x: network.logits(*flat, x), root.images[part], s.batch_size
            )
            return (answer.argmax(1) == root.labels[part]).mean()

        with jax.named_scope(f"times_{s.iterations}"):
            done, end, curves, _ = lax.while_loop(
                lambda carry: (carry[0] < s.iterations) & ~carry[-1],
                iterate,
                (jnp.int32(0), start, no_curves(), jnp.bool_(False)),
            )
        distilled = GlobalModel(ravel(end.clone.params), ravel(end.clone.buffers))
        # No iteration has this number.
        z = jax.random.normal(
            jax.random.fold_in(keys[3], s.iterations), (PICTURES, s.latent_dim)
        )
        made, _ = apply_generator(
            end.generator.params, end.generator.buffers, z, train=False
        )
        record = Record(
            round=context.round,
            iterations=done,
            planned=jnp.int32(s.iterations),
            curves=curves,
            taught=jnp.zeros_like(record.taught).at[cohort.client_ids].max(taught),
            images=made,
            clone_accuracy=accuracy(distilled, slice(s.num_seed)),
            aggregate_accuracy=accuracy(model, slice(s.num_seed)),
        )
        # A clone that diverged is of no use: the aggregate stays.
        finite = jnp.isfinite(distilled.params).all()
        finite &= jnp.isfinite(distilled.buffers).all()
        model = jax.tree.map(
            lambda clone, aggregated: jnp.where(
                finite, combine(clone, aggregated, s.prev_global_weight), aggregated
            ),
            distilled,
            model,
        )
        return record, model

    def _teachers(model, cohort, context, seeds):
        """The survivors without those whose logits explode; else the aggregate.

        Returns the function, its ensemble, and which clients are in it, bool [n].
        """
        network = context.network
        teach = teacher_logits(network, jnp.dtype(s.teacher_dtype))
        aggregated = ensemble(
            model.params[None], model.buffers[None], jnp.ones(1, bool)
        )
        n = cohort.updates.shape[0]
        if not s.ensemble:
            return teach, aggregated, jnp.zeros(n, bool)
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
        taught = member.at[0].set(member[0] | nobody)
        return teach, ensemble(params, buffers, taught), member

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
