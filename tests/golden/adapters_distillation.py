"""Golden vectors of DROP's distillation: losses, filter, and whole iterations."""

from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from torch_state import filled_state, from_flax, to_flax

from fedjax_sim.contracts.model import Model, Network
from fedjax_sim.core.options import gather, options_of
from fedjax_sim.defenses.drop import drop
from fedjax_sim.defenses.drop.distillation import combine
from fedjax_sim.defenses.drop.iteration import (
    Distillation,
    Draws,
    Networks,
    new_learner,
    outer_iteration,
)
from fedjax_sim.defenses.drop.losses import clone_loss, gradient_penalty
from fedjax_sim.defenses.drop.schedule import Schedule
from fedjax_sim.defenses.drop.teachers import (
    ensemble,
    teacher_logits,
    trustworthy_logits,
)
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.models.layers import BatchNorm, Dense, avg_pool
from fedjax_sim.numerics.flat import flat_layout, ravel

Case = dict[str, np.ndarray]

# Shapes of the weights in PyTorch's layout; a bias or norm has the first number.
Shapes = dict[str, tuple[int, ...]]


def generator_shapes(image_shape: tuple[int, int, int], latent_dim: int) -> Shapes:
    """Those of `conv3_gen` for images H, W, C, which it makes from a quarter of H."""
    side, _, channels = image_shape
    return {
        "linear": (128 * (side // 4) ** 2, latent_dim),
        "bn0": (128,),
        "conv1": (128, 128, 3, 3),
        "bn1": (128,),
        "conv2": (64, 128, 3, 3),
        "bn2": (64,),
        "conv3": (channels, 64, 3, 3),
        "bn3": (channels,),
    }


def critic_shapes(channels: int) -> Shapes:
    """Those of `conv3_dis`."""
    return {
        "main_module.0": (32, channels, 4, 4),
        "main_module.1": (32,),
        "main_module.3": (64, 32, 4, 4),
        "main_module.4": (64,),
        "main_module.6": (128, 64, 4, 4),
        "main_module.7": (128,),
        "main_module.9": (1, 128, 4, 4),
    }


CRITIC_NAMES = {
    "main_module.0": "conv1",
    "main_module.1": "norm1",
    "main_module.3": "conv2",
    "main_module.4": "norm2",
    "main_module.6": "conv3",
    "main_module.7": "norm3",
    "main_module.9": "conv4",
}


def images(chw: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(chw.transpose(0, 2, 3, 1))


def check_losses(case: Case) -> None:
    temperature = float(case["temperature"])
    teachers = jnp.asarray(case["teacher_logits"])
    student = jnp.asarray(case["student_logits"])
    # A network whose only parameter says which teacher it is.
    network = SimpleNamespace(logits=lambda params, *_: teachers[params[0].astype(int)])
    count = len(teachers)
    members = ensemble(
        jnp.arange(count * 1.0)[:, None], jnp.zeros((count, 0)), jnp.ones(count, bool)
    )
    mean = teacher_logits(network, jnp.float32)(jnp.zeros(()), members)
    np.testing.assert_allclose(
        mean, case["expected_ensemble_logits"], rtol=1e-5, atol=1e-6
    )
    fake = case["critic_fake"]
    for kind in ("l1", "kl_div"):
        loss = partial(clone_loss, kind=kind, temperature=temperature)
        value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(mean, student)
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


def gan_state(shapes: Shapes, names, salt: int) -> dict[str, np.ndarray]:
    """Fills generator or critic by the rule; `names` in PyTorch's order."""
    texts = []
    for name in map(str, names):
        module, leaf = name.rsplit(".", 1)
        shape = shapes[module] if leaf == "weight" else shapes[module][:1]
        texts.append("x".join(map(str, shape)))
    return filled_state(names, texts, salt)


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
    fake, real = images(case["x_fake"]), images(case["x_real"])
    names = [str(name) for name in case["param_names"]]
    state = gan_state(critic_shapes(fake.shape[-1]), names, int(case["salt"]))
    apply = apply_of(Critic())
    mix = jnp.asarray(case["mix"])[:, None, None, None]
    points = mix * fake + (1 - mix) * real

    def losses(params):
        score = lambda x: apply(params, {}, x, train=True)[0]
        penalty = gradient_penalty(score, points)
        # Of the two batches under WGAN: minus the mean of the real.
        parts = penalty, -score(real).mean(), score(fake).mean()
        return case["lambda1"] * parts[0] + parts[1] + parts[2], parts

    params = to_flax(state, CRITIC_NAMES)["params"]
    (total, parts), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(params)
    for found, name in zip(parts, ("penalty", "loss_real", "loss_fake"), strict=True):
        np.testing.assert_allclose(found, case[f"expected_{name}"], rtol=1e-4)
    np.testing.assert_allclose(total, case["expected_critic_loss"], rtol=1e-4)
    found = from_flax({"params": grads, "batch_stats": {}}, state, CRITIC_NAMES)
    norms = np.array([np.linalg.norm(found[name]) for name in names])
    expected = case["expected_grad_norms"]
    # A bias before an instance norm has no gradient but rounding errors.
    told = expected > 1e-4
    np.testing.assert_allclose(norms[told], expected[told], rtol=1e-3)


def assert_summaries(state: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """Compares norm, mean and first three values of each tensor (0 where fewer)."""
    for (name, tensor), row in zip(state.items(), expected, strict=True):
        first = np.zeros(3)
        first[: tensor.size] = tensor.ravel()[:3]
        found = [np.linalg.norm(tensor), tensor.mean(), *first]
        np.testing.assert_allclose(found, row, rtol=1e-3, atol=1e-5, err_msg=name)


class Student(nn.Module):
    """The small network of the distillation files."""

    pool: int
    hidden: int
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False, mask=None):
        x = avg_pool(x, self.pool)
        x = Dense(self.hidden, name="fc1")(x.reshape(x.shape[0], -1))
        x = nn.relu(BatchNorm(name="bn")(x, train=train, mask=mask))
        return Dense(self.num_classes, name="fc")(x)


def check_kd_loop(case: Case) -> None:
    get = lambda name: case[name].item()
    given = {
        name: get(name)
        for name in (
            "batch_size",
            "iter_gen",
            "iter_clone",
            "iter_exp",
            "latent_dim",
            "lr_clone",
            "lr_gen",
            "lr_dis",
            "alpha_gan",
            "lambda1",
            "loss_type",
        )
    }
    queries = get("batch_size") * (get("iter_clone") - 1 + 11 * get("iter_gen"))
    usual = {name: option.default for name, option in options_of(drop).items()}
    budget = get("iterations") * queries
    schedule = gather(Schedule, usual | given | {"budget": budget})
    assert schedule.iterations == get("iterations")
    seeds = images(case["x_seed"])
    image_shape = seeds.shape[1:]
    side, channels = image_shape[0] // get("student_pool"), image_shape[2]
    names = [str(n) for n in case["expected_student_names"]]
    hidden, inputs = get("student_hidden"), channels * side**2
    # The last layer has the rest of the entries: hidden + 1 of each class.
    rest = case["expected_student_flat"].size - hidden * (inputs + 5)
    classes = rest // (hidden + 1)
    shapes = [f"{hidden}x{inputs}", f"{hidden}", *[f"{hidden}"] * 4]
    shapes += [f"{classes}x{hidden}", f"{classes}"]
    module = Student(get("student_pool"), hidden, classes)

    def student(salt):
        state = filled_state(names, shapes, int(salt))
        return to_flax(state, flattened={"fc1": channels})

    def apply(params, buffers, x, *, train, mask=None):
        return apply_of(module)(params, buffers, x, train=train)

    start = student(case["salt_student_init"])
    layout, buffer_layout = map(flat_layout, (start["params"], start["batch_stats"]))
    model = Model("student", None, apply, None, "fc", True)
    network = Network(model, layout, buffer_layout, image_shape, classes)
    salts = case["salt_teachers"] if get("ensemble") else [case["salt_global"]]
    teachers = [student(salt) for salt in salts]
    members = ensemble(
        jnp.stack([ravel(t["params"]) for t in teachers]),
        jnp.stack([ravel(t["batch_stats"]) for t in teachers]),
        jnp.ones(len(teachers), bool),
    )
    mean = teacher_logits(network, jnp.float32)
    networks = Networks(
        apply, apply_of(Generator(channels, image_shape[0] // 4)), apply_of(Critic())
    )
    generator = gan_state(
        generator_shapes(image_shape, schedule.latent_dim),
        case["generator_names"],
        int(case["salt_generator"]),
    )
    critic = gan_state(
        critic_shapes(channels), case["critic_names"], int(case["salt_critic"])
    )
    capacity = len(seeds) + schedule.iterations * schedule.batch_size
    known = mean(seeds, members)
    state = Distillation(
        clone=learner(start),
        generator=learner(to_flax(generator)),
        critic=learner(to_flax(critic, CRITIC_NAMES)),
        images=jnp.zeros((capacity, np.prod(image_shape)))
        .at[: len(seeds)]
        .set(seeds.reshape(len(seeds), -1)),
        targets=jnp.zeros((capacity, classes)).at[: len(seeds)].set(known),
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
    wanted = to_flax(torch_state, flattened={"fc1": channels})
    for got, want in (
        (state.clone.params, wanted["params"]),
        (state.clone.buffers, wanted["batch_stats"]),
    ):
        np.testing.assert_allclose(ravel(got), ravel(want), rtol=1e-4, atol=2e-5)
    for name, learned, before, rename in (
        ("generator", state.generator, generator, None),
        ("critic", state.critic, critic, CRITIC_NAMES),
    ):
        variables = {"params": learned.params, "batch_stats": learned.buffers}
        assert_summaries(
            from_flax(variables, before, rename), case[f"expected_{name}_stats"]
        )


ADAPTERS = {
    "drop_family": {
        "drop_losses": check_losses,
        "logit_filter": check_logit_filter,
        "combine_params": check_combine,
        "gradient_penalty": check_gradient_penalty,
        "drop_kd_loop": check_kd_loop,
    }
}
