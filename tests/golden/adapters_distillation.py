"""Golden vectors of DROP's distillation: losses, filter, and whole iterations."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from torch_state import filled_state, to_flax

from fedjax_sim.defenses.drop.distillation import (
    Distillation,
    Draws,
    Networks,
    Schedule,
    clone_loss,
    combine,
    ensemble,
    gradient_penalty,
    new_learner,
    outer_iteration,
    teacher_logits,
    trustworthy_logits,
)
from fedjax_sim.models import Model, Network
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.models.layers import BatchNorm, Dense, avg_pool
from fedjax_sim.numerics.flat import flat_layout, ravel

Case = dict[str, np.ndarray]

# Shapes of the weights in PyTorch's layout; a bias or norm has the first number.
GENERATOR = {
    "linear": (128 * 64, 16),
    "bn0": (128,),
    "conv1": (128, 128, 3, 3),
    "bn1": (128,),
    "conv2": (64, 128, 3, 3),
    "bn2": (64,),
    "conv3": (3, 64, 3, 3),
    "bn3": (3,),
}
CRITIC = {
    "main_module.0": (32, 3, 4, 4),
    "main_module.1": (32,),
    "main_module.3": (64, 32, 4, 4),
    "main_module.4": (64,),
    "main_module.6": (128, 64, 4, 4),
    "main_module.7": (128,),
    "main_module.9": (1, 128, 4, 4),
}
CRITIC_NAMES = dict(
    zip(
        CRITIC,
        ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "conv4"),
        strict=True,
    )
)


def images(chw: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(chw.transpose(0, 2, 3, 1))


def check_losses(case: Case) -> None:
    temperature = float(case["temperature"])
    teachers = jnp.asarray(case["teacher_logits"])
    student = jnp.asarray(case["student_logits"])
    mean = teachers.mean(0)
    np.testing.assert_allclose(mean, case["expected_ensemble_logits"], rtol=1e-5)
    fake, real = case["critic_fake"], case["critic_real"]
    np.testing.assert_allclose(
        fake.mean() - real.mean(), case["expected_critic_loss_no_gp"], rtol=1e-4
    )
    for kind in ("l1", "kl_div"):
        loss = partial(clone_loss, kind=kind, temperature=temperature)
        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(mean, student)
        np.testing.assert_allclose(
            value, case[f"expected_clone_loss_{kind}"], rtol=1e-4
        )
        np.testing.assert_allclose(
            -value - float(case["alpha_gan"]) * fake.mean(),
            case[f"expected_generator_loss_{kind}"],
            rtol=1e-4,
        )
        for name, grad in zip(("teacher", "student"), grads, strict=True):
            np.testing.assert_allclose(
                grad, case[f"expected_grad_{name}_{kind}"], rtol=1e-4, atol=1e-6
            )


def check_logit_filter(case: Case) -> None:
    kept = trustworthy_logits(jnp.asarray(case["seed_logits"]))
    np.testing.assert_array_equal(kept, case["expected_keep"].astype(bool))


def check_combine(case: Case) -> None:
    got = combine(case["previous"], case["random"], float(case["alpha"]))
    np.testing.assert_allclose(got, case["expected"], rtol=1e-5, atol=1e-6)


def gan_variables(shapes, names, salt: int, rename=None):
    """Fills generator or critic by the rule; `names` in PyTorch's order."""
    texts = []
    for name in map(str, names):
        module, leaf = name.rsplit(".", 1)
        shape = shapes[module] if leaf == "weight" else shapes[module][:1]
        texts.append("x".join(map(str, shape)))
    return to_flax(filled_state(names, texts, salt), rename)


def learner(variables):
    variables = jax.tree.map(jnp.asarray, variables)
    return new_learner(variables["params"], variables["batch_stats"])


def apply_of(module):
    def apply(params, buffers, x, *, train):
        variables = {"params": params, "batch_stats": buffers}
        if not train or not buffers:
            return module.apply(variables, x, train=train), buffers
        out, changed = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return out, changed["batch_stats"]

    return apply


def check_gradient_penalty(case: Case) -> None:
    variables = gan_variables(
        CRITIC, case["param_names"], int(case["salt"]), CRITIC_NAMES
    )
    apply = apply_of(Critic())
    score = jax.jit(lambda x: apply(variables["params"], {}, x, train=True)[0])
    fake, real = images(case["x_fake"]), images(case["x_real"])
    mix = jnp.asarray(case["mix"])[:, None, None, None]
    points = mix * fake + (1 - mix) * real
    penalty = jax.jit(lambda points: gradient_penalty(score, points))(points)
    np.testing.assert_allclose(penalty, case["expected_penalty"], rtol=1e-4)
    # The losses are those of the two batches under WGAN: minus the mean of the real.
    np.testing.assert_allclose(
        -score(real).mean(), case["expected_loss_real"], rtol=1e-4
    )
    np.testing.assert_allclose(
        score(fake).mean(), case["expected_loss_fake"], rtol=1e-4
    )
    total = score(fake).mean() - score(real).mean() + case["lambda1"] * penalty
    np.testing.assert_allclose(total, case["expected_critic_loss"], rtol=1e-4)


class Student(nn.Module):
    """The small network of the distillation files."""

    pool: int
    hidden: int

    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        x = avg_pool(x, self.pool)
        x = Dense(self.hidden, name="fc1")(x.reshape(x.shape[0], -1))
        x = nn.relu(BatchNorm(name="bn")(x, train=train, mask=mask))
        return Dense(10, name="fc")(x)


def check_kd_loop(case: Case) -> None:
    get = lambda name: case[name].item()
    schedule = Schedule(
        batch_size=get("batch_size"),
        iter_gen=get("iter_gen"),
        iter_clone=get("iter_clone"),
        iter_exp=get("iter_exp"),
        latent_dim=get("latent_dim"),
        lr_clone=get("lr_clone"),
        lr_gen=get("lr_gen"),
        lr_dis=get("lr_dis"),
        alpha_gan=get("alpha_gan"),
        lambda1=get("lambda1"),
        loss_type=get("loss_type"),
        budget=get("iterations")
        * get("batch_size")
        * (get("iter_clone") - 1 + 11 * get("iter_gen")),
    )
    assert schedule.iterations == get("iterations")
    module = Student(get("student_pool"), get("student_hidden"))
    side = 32 // get("student_pool")
    names = [str(n) for n in case["expected_student_names"]]
    hidden = get("student_hidden")
    shapes = [f"{hidden}x{3 * side * side}", f"{hidden}", *[f"{hidden}"] * 4]
    shapes += [f"10x{hidden}", "10"]

    def student(salt):
        state = filled_state(names, shapes, int(salt))
        return to_flax(state, flattened={"fc1": 3})

    def apply(params, buffers, x, *, train, mask=None):
        return apply_of(module)(params, buffers, x, train=train)

    start = student(case["salt_student_init"])
    layout, buffer_layout = map(flat_layout, (start["params"], start["batch_stats"]))
    model = Model("student", None, apply, None, "fc", True)
    network = Network(model, layout, buffer_layout, (32, 32, 3), 10)
    salts = case["salt_teachers"] if get("ensemble") else [case["salt_global"]]
    teachers = [student(salt) for salt in salts]
    members = ensemble(
        jnp.stack([ravel(t["params"]) for t in teachers]),
        jnp.stack([ravel(t["batch_stats"]) for t in teachers]),
        jnp.ones(len(teachers), bool),
    )
    mean = teacher_logits(network, jnp.float32)
    seeds = images(case["x_seed"])
    networks = Networks(apply, apply_of(Generator(3)), apply_of(Critic()))
    capacity = len(seeds) + schedule.iterations * schedule.batch_size
    known = mean(seeds, members)
    state = Distillation(
        clone=learner(start),
        generator=learner(
            gan_variables(
                GENERATOR, case["generator_names"], int(case["salt_generator"])
            )
        ),
        critic=learner(
            gan_variables(
                CRITIC, case["critic_names"], int(case["salt_critic"]), CRITIC_NAMES
            )
        ),
        images=jnp.zeros((capacity, 32, 32, 3)).at[: len(seeds)].set(seeds),
        targets=jnp.zeros((capacity, 10)).at[: len(seeds)].set(known),
        length=jnp.int32(len(seeds)),
    )
    step = jax.jit(
        lambda state, draws, i, members, seeds: outer_iteration(
            networks, schedule, lambda x: mean(x, members), seeds, state, draws, i
        )
    )
    expected = {
        "disagreement": "gen_dis_loss",
        "generator": "gen_loss",
        "clone": "clone_loss",
        "critic": "critic_loss",
        "penalty": "gp",
        "replay": "replay_loss",
    }
    for i in range(schedule.iterations):
        draws = Draws(
            z=jnp.asarray(case["z"][i]),
            real=jnp.asarray(case["real_index"][i]),
            mix=jnp.asarray(case["gp_mix"][i]),
            replay=jnp.asarray(case["replay_index"][i]),
        )
        state, losses = step(state, draws, jnp.int32(i), members, seeds)
        for name, key in expected.items():
            np.testing.assert_allclose(
                np.ravel(getattr(losses, name)),
                np.ravel(case[f"expected_{key}"][i]),
                rtol=3e-4,
                err_msg=f"{name}, iteration {i}",
            )
    flat = case["expected_student_flat"]
    sizes = [np.prod([int(n) for n in s.split("x")]) for s in shapes]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    torch_state = {
        name: part.reshape([int(n) for n in shape.split("x")])
        for name, part, shape in zip(names, parts, shapes, strict=True)
    }
    wanted = to_flax(torch_state, flattened={"fc1": 3})
    for got, want in (
        (state.clone.params, wanted["params"]),
        (state.clone.buffers, wanted["batch_stats"]),
    ):
        np.testing.assert_allclose(ravel(got), ravel(want), rtol=1e-4, atol=2e-5)


ADAPTERS = {
    "drop_family": {
        "drop_losses": check_losses,
        "logit_filter": check_logit_filter,
        "combine_params": check_combine,
        "gradient_penalty": check_gradient_penalty,
        "drop_kd_loop": check_kd_loop,
    }
}
