"""Golden vectors of peers: attacks and local training."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from adapters_attacks import make_view
from adapters_defenses import make_cohort, make_context, make_spec
from jax import Array
from peers import Case, PyTree, as_regression, as_vector, assert_params, mean_loss

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.a3fl import Pattern, gradients, moved
from fedjax_sim.attacks.altermin import alternate
from fedjax_sim.attacks.constrain_and_scale import constrained
from fedjax_sim.attacks.layer_poisoning import crafted, critical_layers
from fedjax_sim.attacks.mimic import MimicState
from fedjax_sim.attacks.mimic import search as mimic_search
from fedjax_sim.attacks.optimal_alie import line as alie_line
from fedjax_sim.attacks.optimal_ipm import line as ipm_line
from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.optimal import moments
from fedjax_sim.attacks.parts.optimal import search as optimal_search
from fedjax_sim.attacks.parts.projection import onto_ball, project
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.attack import Answer, CraftView
from fedjax_sim.contracts.client import Batch
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.parts.before import stages_before
from fedjax_sim.round.training import sgd
from fedjax_sim.stages import STAGES
from fedjax_sim.testing.quick_jit import quick_jit


def check_fedprox(case: Case) -> None:
    """Full-batch steps with the published term, the documented one, and none."""
    images, labels = jnp.asarray(case["images"]), jnp.asarray(case["labels"])
    _, classes = case["layer_sizes"]
    make, mu = CLIENT_DEFENSES["fedprox"].factory, float(case["mu"])
    gradient = quick_jit(jax.grad(mean_loss))
    for side, expected in (
        (make(mu=mu), "paper_params"),
        (make(mu=mu, variant="flwr_docs"), "flwr_docs_params"),
        (make(mu=0.0), "no_term_params"),
    ):
        rule = side.optimizer(float(case["learning_rate"]), 0.0, 0.0)
        params = as_regression(case["global_params"], int(classes))
        state = rule.init(params)
        for wanted in case[expected]:
            updates, state = rule.update(
                gradient(params, images, labels), state, params
            )
            params = optax.apply_updates(params, updates)
            assert_params(as_vector(params), wanted)


def attackers_view(honest: np.ndarray, attackers: int) -> CraftView:
    """A cohort whose last clients attack."""
    rows = np.pad(honest, ((0, attackers), (0, 0)))
    return make_view(rows, np.arange(len(rows)) >= len(honest))


def check_mimic(case: Case) -> None:
    """A fixed client is copied."""
    attack = ATTACKS["mimic"].factory(target="fixed", epsilon=int(case["epsilon"]))
    view = attackers_view(case["honest_updates"], 2)
    _, crafted = attack.craft((), view)
    np.testing.assert_allclose(crafted[-1], case["expected_update"])


def check_mimic_variant(case: Case) -> None:
    """The direction, the target and what is sent, round by round."""
    choice = "argmax" if case["argmax"] else "argmin"
    start = jnp.asarray(case["start_vector"], jnp.float32)
    zeros = jnp.zeros(len(start))
    state = MimicState(zeros, zeros, jnp.int32(0), jnp.int32(-1))
    step = quick_jit(
        partial(mimic_search, warmup=int(case["warmup"]), choice=choice),
    )
    for r, honest in enumerate(case["honest_updates"]):
        view = attackers_view(honest, 2)
        state, row = step(state, view, ~view.malicious, start)
        assert_params(state.direction, case["expected_direction"][r])
        assert row == case["expected_targets"][r]
        assert_params(view.updates[row], case["expected_update"][r])


def check_constrain_and_scale(case: Case) -> None:
    """Local steps with each distance, and the update that is sent."""
    start = as_regression(case["global_params"], int(case["layer_sizes"][-1]))
    count, rate = int(case["num_adversaries"]), float(case["learning_rate"])
    batch = Batch(
        jnp.asarray(case["inputs"]), jnp.asarray(case["labels"]), jnp.ones(1, bool)
    )

    def gradient(params: PyTree, buffers: PyTree, batch: Batch):
        loss, grads = jax.value_and_grad(mean_loss)(params, batch.images, batch.labels)
        return loss, buffers, grads

    for anomaly, name in (("l2", "l2"), ("cosine", "cosine"), ("none", "no_term")):
        own = constrained(gradient, start, float(case["alpha"]), anomaly)
        own, params = quick_jit(own), start
        for wanted in case[f"{name}_params"]:
            _, _, grads = own(params, {}, batch)
            params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
            assert_params(as_vector(params), wanted)
        update = as_vector(params) - case["global_params"]
        view = attackers_view(np.zeros((1, len(update))), count)
        view = view._replace(updates=jnp.tile(jnp.asarray(update), (1 + count, 1)))
        send = multiplied(float(case["scale"]), shared=anomaly != "none")
        _, sent = send((), view)
        assert_params(sent[-1], case[f"{name}_update"], 2e-4)


def check_altermin(case: Case) -> None:
    """The parameters after every malicious step, and the update."""
    classes, rate = int(case["layer_sizes"][-1]), float(case["learning_rate"])
    images = jnp.asarray(case["malicious_inputs"])
    labels = jnp.asarray(case["malicious_labels"])
    steps = int(case["benign_steps"])
    rule = alternate(
        sgd(rate, 0.0, 0.0),
        lambda params: mean_loss(params, images, labels),
        benign_steps=steps,
        step=float(case["boost"]) * rate,
        rho=float(case["rho"]),
    )
    state = rule.init(as_regression(case["reference_params"], classes))
    params = as_regression(case["global_params"], classes)

    @quick_jit
    def advance(params: PyTree, state: PyTree, images: Array, labels: Array):
        grads = jax.grad(mean_loss)(params, images, labels)
        moves, state = rule.update(grads, state, params)
        return optax.apply_updates(params, moves), state

    for t, batch in enumerate(zip(case["inputs"], case["labels"], strict=True), 1):
        params, state = advance(params, state, *map(jnp.asarray, batch))
        if t % steps == 0:
            wanted = case["expected_params"][t // steps - 1]
            assert_params(as_vector(params), wanted)
    update = as_vector(params) - case["global_params"]
    assert_params(update, case["expected_update"])


def check_pgd_projection(case: Case) -> None:
    """Both balls, as a step and as what is sent."""
    center, radius = jnp.asarray(case["global_params"]), float(case["epsilon"])
    step = jnp.asarray(case["params"]) - center
    for ball, name in (("l2", "l2"), ("l_inf", "linf")):
        rule = project({"w": center}, radius, ball, 1)
        moved, _ = rule.update({"w": step}, jnp.int32(0), {"w": center})
        assert_params(center + moved["w"], case[f"expected_{name}_params"])
        sent = onto_ball(step[None], radius, ball)[0]
        assert_params(sent, case[f"{name}_update"])


# What byzfl's aggregators are here: (rule, fixed options, the option that is f).
_BYZFL_RULES = {
    "geometric_median": ("geometric_median", {"variant": "byzfl"}, None),
    "krum": ("krum", {}, "num_neighbors"),
    "mean": ("fedavg", {}, None),
    "meamed": ("meamed", {}, "num_byzantine"),
    "median": ("median", {}, None),
    "trimmed_mean": ("trimmed_mean", {}, "num_byzantine"),
}


def check_optimal_attack(case: Case) -> None:
    """Both attacks and both searches; where many factors tie, the distance alone."""
    honest, f = case["honest_updates"], int(case["f"])
    n = len(honest) + f
    name, options, count = _BYZFL_RULES[str(case["aggregator"])]
    if count is not None:
        options = {**options, count: n - f - 1 if count == "num_neighbors" else f}
    before = str(case["pre_aggregator"])
    stages = {}
    if before.startswith("clip"):
        norm = float(before.removeprefix("clip"))
        stages["clipping"] = STAGES["clipping"].factory(norm=norm)
    elif before != "none":
        stages[before] = STAGES[before].factory(num_byzantine=f)
    rule = stages_before(name, stages, DEFENSES[name].factory(**options))
    spec = make_spec(make_cohort(np.pad(honest, ((0, f), (0, 0)))))
    state, context = rule.init(spec), make_context(np.zeros(honest.shape[1]))
    base = make_cohort(np.zeros((n, honest.shape[1])))

    def answer(updates: Array) -> Answer:
        sent = base._replace(updates=updates)
        _, cohort, result = rule.aggregate(state, sent, context)
        return Answer(result.update, cohort.weights)

    view = attackers_view(honest, f)._replace(answer=answer)
    for method, suffix in (("byzfl", ""), ("line_maximize", "_line_maximize")):
        run = quick_jit(partial(_searched, view, method, case))
        for kind in ("alie", "ipm"):
            prefix = kind + suffix
            found, sent, distances = run(
                kind == "alie", jnp.asarray(case[f"{kind}_tried"], jnp.float32)
            )
            reached = case[f"{prefix}_distance"]
            if case[f"{prefix}_tau_stable"]:
                np.testing.assert_allclose(found.best, case[f"{prefix}_tau"], 1e-4)
                assert_params(sent, case[f"{prefix}_update"])
            np.testing.assert_allclose(found.score, reached, rtol=1e-3)
            if method == "byzfl":
                tried = case[f"{kind}_distances"]
                largest = np.abs(tried).max()
                np.testing.assert_allclose(distances, tried, 1e-3, 1e-4 * largest)


def _searched(view: CraftView, method: str, case: Case, alie: Array, tried: Array):
    """The search, what is sent, and the distances of the factors the peer tried."""

    def line(*point: Array) -> Array:
        return jnp.where(alie, alie_line(*point), ipm_line(*point))

    found = optimal_search(
        view,
        line,
        method,
        int(case["evals"]),
        float(case["start"]),
        float(case["delta"]),
        float(case["ratio"]),
    )
    mean, std = moments(view)

    def distance(factor: Array) -> Array:
        sent = jnp.where(
            view.malicious[:, None], line(mean, std, factor)[None], view.updates
        )
        return jnp.linalg.norm(view.answer(sent).update - mean)

    return found, line(mean, std, found.best), jax.lax.map(distance, tried)


def check_a3fl(case: Case) -> None:
    """The trigger after every step on one batch."""
    classes, target = int(case["layer_sizes"][-1]), int(case["target_class"])
    models = [as_regression(flat, classes) for flat in case["adversarial_params"]]
    params = as_regression(case["params"], classes)
    stacked = jax.tree.map(lambda x: jnp.zeros((0, *x.shape)), params)
    if models:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    images = jnp.asarray(case["images"])[..., None]
    mask = jnp.asarray(case["mask"], bool)[..., None]
    labels = jnp.full(len(images), target)

    def loss(params: PyTree, images: Array) -> Array:
        return mean_loss(params, images.reshape(len(images), -1), labels)

    @quick_jit
    def step(value: Array) -> Array:
        weights = jnp.asarray(case["adversarial_weights"], jnp.float32)
        own, _ = gradients(
            Pattern(mask, value),
            images,
            loss,
            params,
            stacked,
            weights,
            float(case["balance"]),
        )
        rate, bounds = case["learning_rate"], (case["clip_low"], case["clip_high"])
        return moved(value, own, lr=rate, low=bounds[0], high=bounds[1])

    value = jnp.asarray(case["trigger"])[..., None]
    for wanted in case["expected_triggers"]:
        value = step(value)
        assert_params(value[..., 0], wanted)


def check_layer_poisoning(case: Case) -> None:
    """The critical layers in their order, and what is sent."""
    importance = jnp.asarray(case["importance"], jnp.float32)
    rate = float(case["malicious_bsr"]) * importance
    success = lambda poisoned: jnp.where(poisoned, rate, 0.0).sum()
    found = critical_layers(success, success, len(rate), float(case["threshold"]))
    wanted = case["expected_layers"]
    np.testing.assert_array_equal(found.order[: found.number], wanted)
    np.testing.assert_array_equal(np.flatnonzero(found.chosen), np.sort(wanted))
    cuts = case["layer_offsets"][1:-1]
    models = (
        np.split(case[f"{name}_params"], cuts)
        for name in ("malicious", "benign", "global")
    )
    sent = crafted(found.chosen, *models, float(case["lambda_value"]))
    assert_params(np.concatenate(sent), case["expected_params"])


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "a3fl": check_a3fl,
        "altermin": check_altermin,
        "constrain_and_scale": check_constrain_and_scale,
        "fedprox": check_fedprox,
        "layer_poisoning": check_layer_poisoning,
        "mimic": check_mimic,
        "mimic_variant": check_mimic_variant,
        "optimal_attack": check_optimal_attack,
        "pgd_projection": check_pgd_projection,
    },
}
