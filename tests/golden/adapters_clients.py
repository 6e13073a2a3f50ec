"""Golden vectors of the client-side defences: optimiser steps on given gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.client_defenses.fl_wbc import noisy_sgd, small_change
from fedjax_sim.client_defenses.leadfl import leadfl
from fedjax_sim.metrics.over_rounds import mitigation
from fedjax_sim.round.attack_effect import after_round

Case = dict[str, np.ndarray]
TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}


def as_tree(vector: np.ndarray, case: Case):
    """Cuts f32 [d] into leaves that say whether they are weights."""
    parts = np.split(vector, np.cumsum(case["leaf_sizes"])[:-1])
    return {
        f"{i:04}": {"kernel" if weight else "bias": jnp.asarray(part)}
        for i, (part, weight) in enumerate(
            zip(parts, case["leaf_is_weight"], strict=True)
        )
    }


def as_vector(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(tree)])


def check_steps(optimizer, case: Case, expected: np.ndarray) -> None:
    """Feeds the stored gradients one by one and compares the weights."""
    rates = float(case["eta"]), float(case["momentum"]), 0.0
    transform = optimizer(*rates)
    params = as_tree(case["global_params"], case)
    state = transform.init(params)
    update = jax.jit(transform.update)
    for t, gradient in enumerate(case["grads"]):
        step, state = update(
            as_tree(gradient, case),
            state,
            params,
            epoch_start=jnp.bool_(case["history_reset"][t]),
            key=jax.random.key(t),
        )
        params = jax.tree.map(np.add, params, step)
        np.testing.assert_allclose(as_vector(params), expected[t], **TOLERANCE)


def check_leadfl_code(case: Case) -> None:
    clipping = "elementwise" if case["clip_enabled"] else "none"
    defense = leadfl(
        alpha=float(case["alpha"]), clip=float(case["q"]), clipping=clipping
    )
    check_steps(defense.optimizer, case, case["expected_params"])


def check_leadfl_report(case: Case) -> None:
    for variant in ("report", "paper_sign", "halfsq"):
        key = f"expected_params_{variant}".removesuffix("_report")
        defense = leadfl(
            alpha=float(case["alpha"]), clip=float(case["q"]), variant=variant
        )
        check_steps(defense.optimizer, case, case[key])


def check_noise(case: Case, keep) -> None:
    """Replays the stored noise: step t draws the t-th row."""

    def draw(key, tree):
        del tree
        noise = jnp.asarray(case["noise"])[jax.random.key_data(key)[-1]]
        parts = jnp.split(noise, np.cumsum(case["leaf_sizes"])[:-1])
        structure = jax.tree.structure(as_tree(case["global_params"], case))
        return structure.unflatten(parts)

    optimizer = noisy_sgd(draw, keep, "epoch")
    check_steps(optimizer, case, case["expected_params"])


def check_metrics(case: Case) -> None:
    found = mitigation(case["backdoor_acc"], threshold=float(case["threshold"]))
    assert found.starts == case["expected_episode_start"].tolist()
    lengths = [-1 if length is None else length for length in found.lengths]
    assert lengths == case["expected_episode_length"].tolist()
    mean_rounds = np.nan if found.mean_rounds is None else found.mean_rounds
    np.testing.assert_allclose(
        mean_rounds, case["expected_mean_mitigation_rounds"], rtol=1e-6
    )
    np.testing.assert_allclose(found.by_phase, case["expected_ba_by_phase"], rtol=1e-5)


def check_attack_effect(case: Case) -> None:
    eta, hessians = float(case["eta"]), jnp.asarray(case["hessians"])
    diagonals = jnp.diagonal(hessians, axis1=-2, axis2=-1)
    for name, rounds, weights in (
        ("", hessians, None),
        ("_weighted", hessians, case["client_weights"]),
        ("_diag", diagonals, None),
    ):
        delta = jnp.asarray(case["delta0"])
        for t, expected in enumerate(case[f"expected_delta{name}"]):
            own = None if weights is None else jnp.asarray(weights[t])
            delta = after_round(delta, rounds[t], eta, own)
            np.testing.assert_allclose(delta, expected, **TOLERANCE)


ADAPTERS = {
    "leadfl_family": {
        "attack_effect": check_attack_effect,
        "metrics": check_metrics,
        "leadfl_step_code": check_leadfl_code,
        "leadfl_step_code_noclip": check_leadfl_code,
        "leadfl_step_code_quad": check_leadfl_code,
        "leadfl_step_report": check_leadfl_report,
        "flwbc_step": lambda case: check_noise(case, small_change),
        "ldp_step": lambda case: check_noise(
            case, lambda g, last, y: jnp.ones_like(g, bool)
        ),
    }
}
