"""Golden vectors of the attacks: how each stored case is put to our functions.

A check takes the arrays of one file and raises AssertionError. `ADAPTERS` maps a
family (directory) and a case (file name up to "__", or without its trailing number)
to its check. The tolerances are those of README.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from arrays import placed
from jax import Array
from jax.flatten_util import ravel_pytree

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.chameleon import supervised_contrastive_loss
from fedjax_sim.attacks.fang import beyond_the_mean
from fedjax_sim.attacks.leadfl_backdoor import mgda_weights
from fedjax_sim.attacks.lie import max_shift
from fedjax_sim.attacks.parts.boosting import copy_sources
from fedjax_sim.attacks.parts.projection import project_l2
from fedjax_sim.attacks.poisonedfl import (
    PoisonedFLState,
    aligned_enough,
    count_aligned,
    divided,
    flipped,
    rescaled,
    with_noise,
)
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    CraftView,
    LocalStage,
    LocalTools,
)
from fedjax_sim.contracts.client import Batch, ClientContext
from fedjax_sim.contracts.dataset import Partition
from fedjax_sim.contracts.model import Model
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.triggers import stamp
from fedjax_sim.numerics.flat import FlatLayout, flat_layout, ravel
from fedjax_sim.numerics.order_statistics import median, trimmed_mean
from fedjax_sim.round.training import batch_gradient, sgd

Case = dict[str, np.ndarray]

# --- one round -------------------------------------------------------------------


def make_view(
    updates: np.ndarray,
    malicious: np.ndarray,
    params: np.ndarray | None = None,
    round_index: int = 1,
) -> CraftView:
    """Returns what `craft` sees of a cohort with ids 0..n-1."""
    n, d = updates.shape
    return CraftView(
        round=jnp.int32(round_index),
        key=jax.random.key(round_index),
        global_params=placed(np.zeros(d) if params is None else params),
        updates=placed(updates),
        malicious=placed(malicious, bool),
        present=placed(np.ones(n), bool),
        client_ids=placed(np.arange(n), np.int32),
        network=None,
    )


def make_spec(layout: FlatLayout, num_clients: int, num_malicious: int) -> AttackSpec:
    """Returns the facts of a run without data; the last clients are malicious."""
    return AttackSpec(
        labels=np.zeros(0, np.int32),
        partition=Partition(
            np.zeros((num_clients, 0), np.int32), np.zeros(num_clients, np.int32)
        ),
        malicious_ids=np.arange(num_clients - num_malicious, num_clients),
        num_classes=10,
        image_shape=(28, 28, 1),
        normalization=normalization("unit", 1),
        layout=layout,
        test_images=None,
        test_labels=None,
    )


def last(count: int, n: int) -> np.ndarray:
    """Returns bool [n]: the last `count` clients."""
    return np.arange(n) >= n - count


def crafted_rows(attack: Attack, view: CraftView) -> Array:
    """Returns f32 [q, d]: what the attackers of a stateless attack send."""
    _, crafted = jax.jit(attack.craft)((), view)
    return np.asarray(crafted)[np.asarray(view.malicious)]


def single(values: np.ndarray) -> np.ndarray:
    """Rounds to float32, as JAX does on the way in: then copies are equal again."""
    return np.asarray(values, np.float32)


def assert_vector(actual: Array, expected: np.ndarray, rtol: float = 1e-4) -> None:
    """Compares with rtol and an atol of 1e-6 of the largest expected entry."""
    atol = 1e-6 * float(np.abs(expected).max(initial=0.0))
    expected = np.broadcast_to(expected, np.shape(actual))
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# --- family of FedREDefense ------------------------------------------------------


def check_fang_trimmed_mean(case: Case) -> None:
    """The drawn form with the given draws, its interval, the deterministic form."""
    updates = case["updates"]
    count = len(updates)
    view = make_view(updates, np.ones(count, bool))
    mean, std = case["expected_mean"], case["expected_std"]
    if count > 1:
        actual = jax.vmap(beyond_the_mean, (None, None, 0))(
            jnp.asarray(mean), jnp.asarray(std), jnp.asarray(case["rand_uniform"], "f4")
        )
        np.testing.assert_allclose(
            actual, case["expected_malicious_updates"], rtol=1e-4, atol=1e-5
        )
    drawn = crafted_rows(ATTACKS["fang"].factory(), view)
    if count == 1:
        np.testing.assert_array_equal(drawn, case["expected_malicious_updates"])
    else:
        low, high = case["expected_low"], case["expected_high"]
        slack = 1e-5 + 1e-5 * np.maximum(np.abs(low), np.abs(high))
        assert (drawn >= low - slack).all() and (drawn <= high + slack).all()
        assert (drawn[0] != drawn[1]).any() == (high > low).any()
    fixed = crafted_rows(ATTACKS["fang"].factory(variant="deterministic"), view)
    assert_vector(fixed, case["expected_deterministic_3p5sigma_popstd"])


def check_fang_krum(case: Case) -> None:
    """All three forms: the vector, and so lambda and direction."""
    updates, count = case["updates"], int(case["num_malicious"])
    view = make_view(updates, last(count, len(updates)))
    make = ATTACKS["fang_krum"].factory
    for form, expected in (
        ("partial", case["expected_partial_update"]),
        ("analytic", case["expected_full_update"]),
        ("full", -case["expected_full1_lambda"] * case["expected_full1_direction"]),
    ):
        assert_vector(crafted_rows(make(form=form), view), expected)


def check_lie(case: Case) -> None:
    """z_max, and the crafted update with z_max of the cohort."""
    n, count = int(case["num_clients"]), int(case["num_malicious"])
    z = max_shift(jnp.int32(n), jnp.int32(count))
    np.testing.assert_allclose(z, case["expected_z_max"], rtol=1e-4)
    view = make_view(case["updates"], last(count, n))
    crafted = crafted_rows(ATTACKS["lie"].factory(), view)
    assert_vector(crafted, case["expected_malicious_update"])


def _check_agr_agnostic(case: Case, name: str) -> None:
    updates = case["updates"]
    view = make_view(updates, np.ones(len(updates), bool))
    for perturbation in ("std", "unit_vec", "sign"):
        attack = ATTACKS[name].factory(
            perturbation=perturbation,
            initial_scale=float(case["threshold_init"]),
            tolerance=float(case["tolerance"]),
        )
        expected = case[f"expected_malicious_update_{perturbation}"]
        crafted = crafted_rows(attack, view)
        # A gamma within 1e-3 moves each entry by 1e-3 of its perturbation.
        slack = case.get(f"expected_deviation_{perturbation}", np.zeros(1))
        bound = 1e-3 * (np.abs(expected) + np.abs(slack))
        bound += 1e-6 * np.abs(expected).max()
        assert (np.abs(crafted - expected) <= bound).all(), perturbation


def check_min_max(case: Case) -> None:
    """Min-Max with each of the three perturbations."""
    _check_agr_agnostic(case, "min_max")


def check_min_sum(case: Case) -> None:
    """Min-Sum with each of the three perturbations."""
    _check_agr_agnostic(case, "min_sum")


def check_mpaf(case: Case) -> None:
    """The attack sees the initial model in round 1 and crafts in round 2."""
    initial, params = case["initial_params"], case["global_params"]
    attack = ATTACKS["mpaf"].factory(scale=float(case["scale"]))
    layout = flat_layout({"w": jnp.zeros(len(params))})
    state = attack.init(make_spec(layout, 4, 1))
    for round_index, model in ((1, initial), (2, params)):
        state = attack.observe(state, jnp.int32(round_index), jnp.asarray(model))
    view = make_view(np.zeros((4, len(params))), last(1, 4), params, 2)
    _, crafted = attack.craft(state, view)
    assert_vector(crafted[-1], case["expected_malicious_update"])
    assert_vector(params + crafted[-1], case["expected_local_params"])


def linear_model() -> Model:
    """A linear classifier of images in C, H, W order; parameters as in PyTorch."""

    def apply(params, buffers, images, *, train, mask=None):
        del train, mask
        flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return flat @ params["weight"].T + params["bias"], buffers

    return Model("linear", None, apply, None, "", False)


def trained_update(
    attack: Attack,
    spec: AttackSpec,
    weight: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    lr: float,
    epochs: int,
    client_id: int = 0,
) -> tuple[dict[str, Array], list[Batch]]:
    """Trains an attacker on NCHW batches in their order.

    Returns:
      The update that it sends, and the batches of its first epoch.
    """
    model, poison = linear_model(), attack.poison(spec)
    start = {"weight": jnp.asarray(weight), "bias": jnp.zeros(len(weight))}
    tools = LocalTools(
        state=(),
        model=model,
        normalization=spec.normalization,
        task=None,
        hyper=None,
        epochs=epochs,
        gradient=jax.jit(batch_gradient(model, None)),
        optimizer=sgd(lr, 0.0, 0.0),
        global_params=start,
        data=None,
    )
    (stage,) = (
        attack.local_stages(tools)
        if attack.local_stages
        else (LocalStage(epochs, tools.gradient, tools.optimizer),)
    )

    def read(images, labels, epoch):
        context = ClientContext(
            jnp.int32(client_id), jnp.bool_(True), jnp.int32(1), jnp.int32(epoch)
        )
        images = jnp.asarray(images.transpose(0, 2, 3, 1))
        labels = jnp.asarray(labels, jnp.int32)
        decision = poison.decide(poison.plan, jnp.arange(len(labels)), labels, context)
        if poison.triggers is not None:
            trigger = jax.tree.map(lambda x: x[decision.trigger], poison.triggers)
            images = stamp(images, trigger, decision.poisoned)
        return Batch(images, decision.labels, jnp.ones(len(labels), bool))

    epoch_batches = [
        [read(*batch, epoch) for batch in zip(images, labels, strict=True)]
        for epoch in range(stage.epochs)
    ]
    params, state = start, stage.optimizer.init(start)
    for batch in (batch for batches in epoch_batches for batch in batches):
        _, _, grads = stage.gradient(params, {}, batch)
        updates, state = stage.optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    update = jax.tree.map(jnp.subtract, params, start)
    if attack.craft is not None:
        flat, unravel = ravel_pytree(update)
        view = make_view(flat[None], np.ones(1, bool))
        update = unravel(crafted_rows(attack, view)[0])
    return update, epoch_batches[0]


def check_backdoor(case: Case) -> None:
    """Scaling and DBA: the stamped batch, the passes, the scaled update."""
    images, target = single(case["images"]), int(case["target_label"])
    layout = flat_layout({"w": jnp.zeros(1)})
    spec = make_spec(layout, 100, 28)._replace(
        num_classes=len(case["init_weight_scaling"]),
        image_shape=(*images.shape[3:], images.shape[2]),
        normalization=normalization("unit", images.shape[2]),
    )
    options = {"scale": float(case["scale"]), "target_class": target}
    for name in ("scaling", "dba"):
        update, batches = trained_update(
            ATTACKS[name].factory(**options),
            spec,
            case[f"init_weight_{name}"],
            images,
            case["labels"],
            lr=float(case["lr"]),
            epochs=int(case["epochs"]),
            client_id=int(case["client_id"]),
        )
        stamped = np.moveaxis(np.asarray(batches[0].images), -1, 1)
        expected = case[f"expected_triggered_batch0_{name}"]
        np.testing.assert_array_equal(stamped[: len(expected)], single(expected))
        changed = np.argwhere((stamped != images[0]).any(0))
        positions = case[f"expected_trigger_positions_chw_{name}"]
        np.testing.assert_array_equal(changed, positions)
        assert (batches[0].labels == target).all()
        for part in ("weight", "bias"):
            assert_vector(update[part], case[f"expected_update_{part}_{name}"])
        test = ATTACKS[name].factory(**options).test(spec)
        assert test.trigger.mask.sum() == 4 and test.victim_class is None


def check_label_flip(case: Case) -> None:
    """Labels, and the update of one honest epoch on them."""
    # Vectors, or images as vectors, as images of one row.
    images = case["images"].reshape(*case["labels"].shape, 1, 1, -1)
    layout = flat_layout({"w": jnp.zeros(1)})
    spec = make_spec(layout, 10, 3)._replace(num_classes=int(case["num_classes"]))
    for name, suffix in (
        ("label_flip", "untargeted"),
        ("targeted_label_flip", "targeted"),
    ):
        update, batches = trained_update(
            ATTACKS[name].factory(),
            spec,
            case["init_weight"],
            images,
            case["labels"],
            lr=float(case["lr"]),
            epochs=1,
        )
        labels = np.stack([batch.labels for batch in batches])
        np.testing.assert_array_equal(labels, case[f"expected_labels_{suffix}"])
        for part in ("weight", "bias"):
            assert_vector(update[part], case[f"expected_update_{part}_{suffix}"])


# --- family of DROP --------------------------------------------------------------


def check_neurotoxin(case: Case) -> None:
    """The attack sees two models, and masks a gradient by their difference."""
    stops = np.cumsum(case["layer_sizes"])
    tree = {
        f"{i:04d}": jnp.zeros(size) for i, size in enumerate(np.diff(stops, prepend=0))
    }
    layout = flat_layout(tree)
    gradient = single(case["gradient"])
    reference = jnp.asarray(case["reference_update"], jnp.float32)
    for per_layer, name in ((True, "per_layer"), (False, "global")):
        attack = ATTACKS["neurotoxin"].factory(
            top_k=float(case["top_k"]), per_layer=per_layer
        )
        masked = jax.jit(
            lambda state, attack=attack: attack.local_transform(state, layout).update(
                layout.unravel(jnp.asarray(gradient)), ()
            )[0]
        )
        state = attack.init(make_spec(layout, 4, 1))
        state = attack.observe(state, jnp.int32(1), jnp.zeros_like(reference))
        np.testing.assert_array_equal(ravel(masked(state)), gradient)
        state = attack.observe(state, jnp.int32(2), reference)
        expected = single(case[f"expected_projected_{name}"])
        np.testing.assert_array_equal(ravel(masked(state)), expected)


def check_supcon(case: Case) -> None:
    """The loss with and without the facilitator's weight, and its gradient."""

    def loss(features, scale_weight):
        return supervised_contrastive_loss(
            features,
            jnp.asarray(case["labels"], jnp.int32),
            jnp.ones(len(features), bool),
            facilitator=int(case["facilitator_label"]),
            scale_weight=scale_weight,
            temperature=float(case["temperature"]),
        )

    features, weight = jnp.asarray(case["features"]), float(case["scale_weight"])
    value, grads = jax.jit(jax.value_and_grad(loss))(features, weight)
    np.testing.assert_allclose(value, case["expected_loss"], rtol=2e-5)
    np.testing.assert_allclose(
        loss(features, 1.0), case["expected_loss_unscaled"], rtol=2e-5
    )
    np.testing.assert_allclose(grads, case["expected_grad"], rtol=2e-5, atol=2e-5)


def check_l2_projection(case: Case) -> None:
    """A step beyond the ball, and one within it."""
    center, local = (
        jnp.asarray(case[f"{name}_params"]) for name in ("global", "local")
    )
    far = 2 * float(jnp.linalg.norm(local - center))
    for radius, expected in (
        (float(case["radius"]), case["expected_params"]),
        (far, case["local_params"]),
    ):
        update, _ = project_l2({"w": center}, radius).update(
            {"w": local - center}, (), {"w": center}
        )
        np.testing.assert_allclose(center + update["w"], expected, rtol=2e-5, atol=2e-5)


# --- family of LeadFL ------------------------------------------------------------


def check_mgda(case: Case) -> None:
    """The two weights for every way to scale the gradients."""
    for rule in ("loss", "loss+", "none", "l2"):
        weights = jax.vmap(lambda *args, rule=rule: mgda_weights(*args, rule))(
            case["grad_backdoor"],
            case["grad_normal"],
            case["loss_backdoor"],
            case["loss_normal"],
        )
        expected = case[f"expected_scales_{rule.replace('+', 'plus')}"]
        np.testing.assert_allclose(np.stack(weights, 1), expected, rtol=1e-3)


def check_boost(case: Case) -> None:
    """Whose model is used for every place of the cohort."""
    for malicious, copies, expected in zip(
        case["is_malicious"],
        case["mal_boost"],
        case["expected_source_index"],
        strict=True,
    ):
        n = len(malicious)
        sources = copy_sources(
            jnp.asarray(malicious, bool),
            jnp.ones(n, bool),
            jnp.arange(n),
            jnp.asarray(copies),
        )
        np.testing.assert_array_equal(sources, expected)


def _poisonedfl(case: Case, **options) -> tuple[Attack, PoisonedFLState]:
    """The attack with a direction that is drawn already."""
    attack = ATTACKS["poisonedfl"].factory(
        initial_scale=float(case["c0"]),
        decay=float(case["beta"]),
        min_scale=float(case["c_floor"]),
        window=int(case["window"]),
        **options,
    )
    direction = jnp.asarray(case["s"], jnp.float32)
    fakes = int(case["n_fake"])
    state = attack.init(make_spec(flat_layout({"w": direction}), fakes + 7, fakes))
    return attack, state._replace(direction=direction)


def _assert_sent(actual: Array, expected: np.ndarray, rtol: float) -> None:
    atol = 1e-4 * float(np.abs(expected).max(initial=0.0)) + 1e-12
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def check_poisonedfl_open(case: Case) -> None:
    """Given models: the vector and c of every round, with both tests."""
    size = len(case["s"])
    assert aligned_enough(size, "binomial", float(case["p_value"])) == case["k99"]
    models, fakes = case["global_params"], int(case["n_fake"])
    view = make_view(np.zeros((fakes + 2, size)), last(fakes, fakes + 2))
    for test, suffix in (("binomial", ""), ("majority", "_majority")):
        attack, state = _poisonedfl(case, test=test)
        craft = jax.jit(attack.craft)
        for r, expected in enumerate(case[f"expected_malicious_update{suffix}"]):
            params, before = jnp.asarray(models[r]), state
            state, crafted = craft(
                state, view._replace(round=jnp.int32(r + 1), global_params=params)
            )
            assert (crafted[-fakes:] == crafted[-1]).all()
            _assert_sent(crafted[-1], expected, 1e-3)
            np.testing.assert_allclose(
                state.scale, case[f"expected_c{suffix}"][r], rtol=1e-5
            )
            if case["expected_aligned_count"][r] >= 0:
                aligned = count_aligned(params, before.anchor, state.direction)
                assert aligned == case["expected_aligned_count"][r]


def check_poisonedfl_loop(case: Case) -> None:
    """A closed loop with the server rules of the authors' code."""
    rule, fakes = str(case["aggregator"]), int(case["n_fake"])
    attack, state = _poisonedfl(case)
    craft = jax.jit(attack.craft)
    params = jnp.asarray(case["global_params"])
    genuine = case["benign_updates"].shape[1]
    n = genuine + fakes
    everyone = jnp.ones(n, bool)
    for r, benign in enumerate(case["benign_updates"]):
        rows = np.concatenate([np.zeros((fakes, len(params))), benign])
        view = make_view(rows, last(genuine, n) ^ everyone, params, r + 1)
        state, crafted = craft(state, view)
        _assert_sent(crafted[0], case["expected_malicious_submitted"][r], 2e-3)
        np.testing.assert_allclose(state.scale, case["expected_c"][r], rtol=1e-5)
        updates = jnp.where(view.malicious[:, None], crafted, view.updates)
        if rule == "mean_norm":
            norms = jnp.linalg.norm(updates, axis=1, keepdims=True) + 1e-7
            updates *= jnp.minimum(1.0, norms[fakes:].mean() / norms)
        aggregate = {
            "median": lambda x: median(x, everyone),
            "trim": lambda x: trimmed_mean(x, everyone, int(case["trim_b"])),
        }.get(rule, lambda x: x.mean(0))
        params = params + aggregate(updates)
        _assert_sent(params, case["expected_params"][r], 2e-3)


def check_poisonedfl_adaptive(case: Case) -> None:
    """The vectors of the three adaptations, for given draws."""
    base = case["lam"] * jnp.asarray(case["v"]) * case["s"]
    assert_vector(base, case["expected_base"])
    length, count = float(case["lam"]), len(case["noise"])
    noisy = with_noise(base, jnp.asarray(case["noise"]), float(case["gamma"]) * length)
    _assert_sent(noisy, case["expected_noisy"], 1e-4)
    turned = flipped(base, jnp.asarray(case["flip_signs"] > 0, "f4"), 0.5)
    _assert_sent(turned, case["expected_flipped"], 1e-4)
    parts = divided(base, jnp.asarray(case["partition"]), jnp.arange(count))
    for rule in ("none", "norm", "mean"):
        scaled = rescaled(parts, length, count, rule)
        _assert_sent(scaled, case[f"expected_partition_{rule}"], 1e-4)


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "drop_family": {
        "l2_projection": check_l2_projection,
        "neurotoxin": check_neurotoxin,
        "supcon": check_supcon,
    },
    "leadfl_family": {
        "boost": check_boost,
        "mgda": check_mgda,
        "poisonedfl_adaptive": check_poisonedfl_adaptive,
        "poisonedfl_loop_mean": check_poisonedfl_loop,
        "poisonedfl_loop_mean_norm": check_poisonedfl_loop,
        "poisonedfl_loop_median": check_poisonedfl_loop,
        "poisonedfl_loop_trim": check_poisonedfl_loop,
        "poisonedfl_open": check_poisonedfl_open,
    },
    "fedredefense_family": {
        "backdoor": check_backdoor,
        "fang_krum": check_fang_krum,
        "fang_trimmed_mean": check_fang_trimmed_mean,
        "label_flip": check_label_flip,
        "lie": check_lie,
        "min_max": check_min_max,
        "min_sum": check_min_sum,
        "mpaf": check_mpaf,
    },
}
