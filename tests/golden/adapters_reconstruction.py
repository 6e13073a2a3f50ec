"""Golden vectors of FedREDefense: reconstruction, detection, and its history."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from adapters_models import quick_jit, small_network
from torch_state import split_flat, to_flax

from fedjax_sim.attacks.adaptive_label_flip import largest_factor
from fedjax_sim.contracts.model import Network
from fedjax_sim.defenses.flcert import majority_vote
from fedjax_sim.defenses.parts.reconstruction import (
    DistilledKnowledge,
    Rates,
    inner_steps,
    reconstruct,
    reconstruction_error,
    suspicious,
)
from fedjax_sim.metrics.detection import detection_history
from fedjax_sim.numerics.flat import flat_layout

Case = dict[str, np.ndarray]


def check_reconstruction(case: Case) -> None:
    double = case["start_params"].dtype == np.float64
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        _check(case, "winograd", double)


def _check(case: Case, lowering: str, double: bool) -> None:
    get = lambda name: case[name].item()
    model, rename, flattened = small_network(
        str(case["architecture"]),
        str(case["param_layout"]),
        get("num_classes"),
        lowering,
    )
    tree = lambda flat: jax.tree.map(
        jnp.asarray,
        to_flax(split_flat(flat, str(case["param_layout"])), rename, flattened),
    )["params"]
    layout = flat_layout(tree(case["start_params"]))
    network = Network(model, layout, flat_layout({}), (0, 0, 0), get("num_classes"))
    flat = lambda vector: jax.flatten_util.ravel_pytree(tree(vector))[0]
    params = flat(case["start_params"])
    # The layout of an update is that of parameters; its values may be anything.
    update = flat(case["updates"][0])
    images = lambda name: jnp.asarray(case[name].transpose(0, 2, 3, 1))

    def knowledge(images_name, labels_name, rate_name):
        return DistilledKnowledge(
            images(images_name),
            jnp.asarray(case[labels_name]),
            jnp.asarray(case[rate_name]),
        )

    start = knowledge("syn_images_0", "syn_labels_0", "syn_lr_0")
    steps = get("inner_steps")
    close = dict(rtol=1e-6, atol=1e-9) if double else dict(rtol=5e-3, atol=1e-5)
    loose = dict(rtol=1e-4, atol=1e-7) if double else dict(rtol=2e-2, atol=1e-4)

    def compare(
        found: DistilledKnowledge, wanted: DistilledKnowledge, tolerance
    ) -> None:
        for name, a, b in zip(DistilledKnowledge._fields, found, wanted, strict=True):
            np.testing.assert_allclose(a, b, **tolerance, err_msg=f"{lowering} {name}")

    passed = quick_jit(lambda k: inner_steps(network, params, k, steps))(start)
    for got, want in zip(passed, case["expected_inner_params"][1:], strict=True):
        got = jax.flatten_util.ravel_pytree(got)[0]
        np.testing.assert_allclose(got, flat(want), **close)

    error, gradient = quick_jit(
        jax.value_and_grad(
            lambda k: reconstruction_error(network, params, update, k, steps)
        )
    )(start)
    np.testing.assert_allclose(error, case["expected_errors"][0], **close)
    compare(
        gradient,
        knowledge("expected_grad_images", "expected_grad_labels", "expected_grad_lr"),
        close,
    )

    rates = Rates(get("lr_img"), get("lr_label"), get("lr_lr"), get("momentum"))

    @quick_jit
    def run(limit, threshold):
        found = reconstruct(
            network,
            params,
            update[None],
            jax.tree.map(lambda x: x[None], start),
            limits=limit[None],
            threshold=threshold,
            rates=rates,
            steps=steps,
            stack=1,
        )
        return jax.tree.map(lambda x: x[0], found)

    for count in (1, 3):
        compare(
            run(jnp.int32(count), 0.0).knowledge,
            knowledge(
                f"expected_images_after_{count}",
                f"expected_labels_after_{count}",
                f"expected_lr_after_{count}",
            ),
            close,
        )
    found = run(jnp.int32(get("max_outer_iters")), get("threshold"))
    slack = 0 if double else 1
    assert abs(int(found.iterations) - get("expected_dynamic_iters")) <= slack
    np.testing.assert_allclose(found.error, get("expected_dynamic_error"), **loose)
    if double:
        compare(
            found.knowledge,
            knowledge(
                "expected_dynamic_images",
                "expected_dynamic_labels",
                "expected_dynamic_lr",
            ),
            loose,
        )


def check_detection(case: Case) -> None:
    with jax.enable_x64(True):  # an error may lie just above the threshold
        flags = suspicious(jnp.asarray(case["errors"]), case["threshold"])
    np.testing.assert_array_equal(flags, case["expected_flags_recommended"])


def check_history(case: Case) -> None:
    names = ("malicious_mask", "final_flags", "round_flags", "aggregated")
    malicious, final, flagged, kept = (case[name].astype(bool) for name in names)
    count = len(malicious)

    def rows(excluded, clients=None, iterations=None):
        for t, flags in enumerate(excluded):
            chosen = np.arange(count) if clients is None else np.flatnonzero(clients[t])
            scores = {} if iterations is None else {"iterations": iterations[t][chosen]}
            yield {
                "clients": chosen,
                "excluded": np.flatnonzero(flags),
                "scores": scores,
            }

    history = lambda *args: detection_history(list(rows(*args)), malicious, final)
    found = history(flagged)
    for name in ("dacc", "fpr", "fnr", "adacc", "afpr", "afnr"):
        np.testing.assert_allclose(
            found[name], 100 * case[f"expected_{name}"], rtol=1e-6, err_msg=name
        )
    found = history(~kept)
    np.testing.assert_allclose(found["aar"], case["expected_aar"], rtol=1e-6)
    found = history(flagged, case["participated"], case["outer_iterations"])
    np.testing.assert_allclose(found["aoi"], case["expected_aoi"], rtol=1e-6)


def check_vote(case: Case) -> None:
    vote = majority_vote(jnp.asarray(case["predictions"]), int(case["num_classes"]))
    np.testing.assert_array_equal(vote, case["expected_vote"])


def check_adaptive_scaling(case: Case) -> None:
    a, b, p = case["mock_abp"].T
    tried = []

    def passes(factor):
        tried.append(np.asarray(factor))
        return jnp.minimum(1.0, a + b * (factor - 1.0) ** p) <= float(case["threshold"])

    with jax.enable_x64(True):  # an error may lie at the threshold
        found = largest_factor(
            passes,
            len(a),
            step=float(case["delta_init"]),
            least_step=float(case["gamma_att"]),
        )
    np.testing.assert_array_equal(found, case["expected_lambda"])
    np.testing.assert_array_equal(np.stack(tried, 1), case["expected_trials"])


ADAPTERS = {
    "fedredefense_family": {
        "metrics": check_history,
        "flcert": check_vote,
        "adaptive_scaling": check_adaptive_scaling,
        "reconstruction": check_reconstruction,
        "detection": check_detection,
    }
}
