"""Golden checks of models, local training, metrics and client selection.

`ADAPTERS`: family -> file prefix -> check(arrays of one file). A check raises
AssertionError on a difference.
"""

import contextlib
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from torch_state import filled_state, split_flat, to_flax

from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.model import Model
from fedjax_sim.metrics import evaluation as metrics
from fedjax_sim.models.cnn import TwoLayerCNN
from fedjax_sim.models.convnet import ConvNet
from fedjax_sim.models.gan import Critic, Generator
from fedjax_sim.models.mlp import MLP
from fedjax_sim.models.resnet import ResNet
from fedjax_sim.participation import leadfl as leadfl_schedule
from fedjax_sim.participation.parts.malicious_clients import published_clients
from fedjax_sim.round.training import batch_gradient, sgd

Arrays = dict[str, np.ndarray]
LOWERINGS = ("patches", "winograd")

# Tests compile more than they compute: leave out the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)

_CRITIC = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
_CRITIC |= {"6": "conv3", "7": "norm3", "9": "conv4"}
_DFME = {
    "l1.0": "linear",
    "conv_blocks0.0": "bn0",
    "conv_blocks1.0": "conv1",
    "conv_blocks1.1": "bn1",
    "conv_blocks2.0": "conv2",
    "conv_blocks2.1": "bn2",
    "conv_blocks2.3": "conv3",
    "conv_blocks2.4": "bn3",
}


def assert_close(actual, expected, tolerance: float, name: str) -> None:
    """Compares with a tolerance relative to the largest expected value."""
    scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name
    )


def assert_trees_close(actual, expected, tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(actual),
        jax.tree.leaves(expected),
        strict=True,
    ):
        assert_close(a, b, tolerance, jax.tree_util.keystr(path))


# ----------------------------------------------------------------- model_forward


def _network(state: dict[str, np.ndarray], inputs: np.ndarray):
    """Returns (lowering -> module, PyTorch module -> flax path) for a state."""
    if "main_module.0.weight" in state:
        names = {f"main_module.{number}": name for number, name in _CRITIC.items()}
        return Critic, names
    first = next((name for name in ("linear", "l1.0") if f"{name}.weight" in state), "")
    if first:
        dfme = first == "l1.0"
        channels = state["conv_blocks2.3.bias" if dfme else "conv3.bias"].size
        start = round((state[f"{first}.bias"].size / 128) ** 0.5)
        names = _DFME if dfme else {}
        return lambda lowering: Generator(channels, start, not dfme, lowering), names
    classes = state["fc.bias"].size if "fc.bias" in state else None
    stem = "pool" if inputs.shape[1] == 3 else "plain"
    blocks = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")})
        for i in range(1, 5)
    )
    return lambda lowering: ResNet(classes, stem, blocks, lowering), {}


def _embedded(state: dict[str, np.ndarray], arrays: Arrays) -> np.ndarray:
    """Takes the embedding out of the state of a conditional generator.

    Returns its input: the embedded labels, an integer for each row, before z.
    """
    (name,) = (name for name in state if "emb" in name)
    (labels,) = (
        x
        for key, x in arrays.items()
        if x.shape == (len(arrays["inputs"]),)
        and np.issubdtype(x.dtype, np.integer)
        and not key.startswith("expected_")
    )
    return np.concatenate([state.pop(name)[labels], arrays["inputs"]], axis=1)


def check_model_forward(arrays: Arrays) -> None:
    state = filled_state(
        arrays["tensor_names"], arrays["tensor_shapes"], int(arrays["salt"])
    )
    stats = [str(name) for name in arrays["running_stat_names"]]
    num_parameters = sum(x.size for name, x in state.items() if name not in stats)
    assert num_parameters == arrays["n_parameters"]
    inputs = arrays["inputs"]
    if any("emb" in name for name in state):
        inputs = _embedded(state, arrays)
    if inputs.ndim == 4:
        inputs = inputs.transpose(0, 2, 3, 1)
    make, rename = _network(state, arrays["inputs"])
    variables = to_flax(state, rename)

    moved = dict(state)  # the state after one training pass
    start = 0
    for name in stats:
        stop = start + state[name].size
        moved[name] = arrays["expected_running_stats_after_train"][start:stop]
        start = stop
    assert start == arrays["expected_running_stats_after_train"].size

    for lowering in LOWERINGS:
        module = make(lowering)

        @quick_jit
        def forward(variables, inputs, module=module):
            answer = module.apply(variables, inputs, train=False)
            return answer, *module.apply(
                variables, inputs, train=True, mutable=["batch_stats"]
            )

        # Flax itself refuses variables that are missing or of another shape.
        shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
        assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(
            jnp.shape, shapes["params"]
        )
        in_eval, in_train, changed = forward(variables, inputs)
        for name, actual in (("eval", in_eval), ("train", in_train)):
            expected = arrays[f"expected_{name}_output"]
            if expected.ndim == 4 and actual.ndim == 3:  # a critic's single channel
                actual = actual[..., None]
            if expected.ndim == 4:
                actual = np.moveaxis(actual, -1, 1)
            assert actual.shape == expected.shape
            assert_close(actual, expected, 1e-4, f"{lowering} {name} output")
        assert_trees_close(
            changed.get("batch_stats", {}), to_flax(moved, rename)["batch_stats"], 1e-4
        )


# ------------------------------------------------------------------ client_train


def small_network(architecture: str, layout: str, num_classes: int, lowering: str):
    """Returns (model, rename, flattened) of `name/channels/size/widths...`.

    The model has no `init`; its parameters are those of `to_flax`.
    """
    name, *numbers = architecture.split("/")
    channels, size, *widths = [int(number) for number in numbers]
    rename, edge = {}, 0
    if name == "papercnn":
        module = TwoLayerCNN(num_classes, tuple(widths), lowering=lowering)
        flattened = {"fc1": widths[1]}
    elif name == "mlp":
        module, flattened = MLP(num_classes, tuple(widths)), {"fc1": channels}
    else:
        assert name == "convnet", f"unknown architecture {architecture}"
        width, depth = widths
        rename = {"classifier": "linear"}
        for i in range(depth):
            rename[f"features.{4 * i}"] = f"conv{i + 1}"
            rename[f"features.{4 * i + 1}"] = f"norm{i + 1}"
        module = ConvNet(num_classes, width, depth, lowering)
        flattened = {"classifier": width}
        # The code pads the first convolution of any grey image by 3, ours those of
        # 28x28 pixels: the others get the two missing zeros here.
        (features,) = re.findall(r"classifier.weight:\(\d+, (\d+)\)", layout)
        side = round((int(features) / width) ** 0.5)
        edge = 2 * (size != 28 and side != size >> depth)

    def apply(params, buffers, images, *, train, mask=None):
        images = jnp.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        return module.apply({"params": params}, images, train=train, mask=mask), buffers

    model = Model("golden", None, apply, apply, "fc", False)
    return model, rename, flattened


def _train(model, params, arrays, microbatch):
    """One pass over the batches in the given order; returns (params, mean loss)."""
    gradient = batch_gradient(model, microbatch)
    optimizer = sgd(float(arrays["lr"]), 0.0, 0.0)
    state, total = optimizer.init(params), 0.0

    @quick_jit
    def step(params, state, batch):
        loss, _, grads = gradient(params, {}, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for images, labels in zip(arrays["images"], arrays["labels"], strict=True):
        batch = Batch(
            jnp.asarray(images.transpose(0, 2, 3, 1)),
            jnp.asarray(labels, jnp.int32),
            jnp.ones(len(labels), bool),
        )
        params, state, loss = step(params, state, batch)
        total += float(loss)
    return params, total / arrays["labels"].size


def check_client_train(arrays: Arrays) -> None:
    layout = str(arrays["param_layout"])
    architecture = str(arrays["architecture"])
    double = arrays["global_params"].dtype == np.float64

    def run(arrays, lowering, microbatch, tolerance):
        model, rename, flattened = small_network(
            architecture, layout, int(arrays["num_classes"]), lowering
        )
        convert = lambda flat: to_flax(split_flat(flat, layout), rename, flattened)
        params = jax.tree.map(jnp.asarray, convert(arrays["global_params"])["params"])
        first = arrays["images"][0].transpose(0, 2, 3, 1)
        logits, _ = quick_jit(partial(model.apply, train=False))(params, {}, first)
        expected = arrays["expected_logits_batch0"]
        assert_close(logits, expected, tolerance, f"{lowering} logits")
        trained, loss = _train(model, params, arrays, microbatch)
        expected = convert(arrays["expected_params"])["params"]
        assert_trees_close(trained, expected, tolerance)
        assert_close(loss, arrays["expected_mean_loss"], tolerance, "mean loss")

    if double:
        with jax.enable_x64(True):
            for lowering in LOWERINGS:
                run(arrays, lowering, None, 1e-6)
    single = {
        key: value.astype(np.float32) if value.dtype == np.float64 else value
        for key, value in arrays.items()
    }
    with contextlib.nullcontext() if not double else jax.enable_x64(False):
        for lowering in LOWERINGS:
            run(single, lowering, None, 1e-4)
        # Parts that do not divide the batch, if it is larger than two.
        run(single, "winograd", arrays["labels"].shape[1] // 2 + 1, 1e-4)


# ----------------------------------------------------------------------- metrics


def _counts(logits, labels, mask=None, threshold=None) -> metrics.Counts:
    mask = np.ones(len(labels), bool) if mask is None else mask
    return metrics.count_predictions(
        jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask), threshold
    )


def check_evaluate(arrays: Arrays) -> None:
    threshold = float(arrays["low_confidence_threshold"])
    threshold = None if np.isnan(threshold) else threshold
    row = metrics.evaluation_row(
        {
            "clean": _counts(
                arrays["clean_logits"], arrays["clean_labels"], None, threshold
            ),
            "backdoor": _counts(
                arrays["poison_logits"], arrays["poison_labels"], None, threshold
            ),
        },
        threshold,
    )
    names = {"mta": "mta", "asr": "asr"}
    if threshold is not None:
        names |= {
            "retained": "clean_retained",
            "conditional_mta": "clean_conditional",
            "retained_asr": "poison_retained",
            "conditional_asr": "poison_conditional",
        }
    else:
        assert "retained" not in row and "conditional_asr" not in row
    for ours, theirs in names.items():
        np.testing.assert_allclose(
            row[ours], arrays[f"expected_{theirs}"], rtol=1e-6, err_msg=ours
        )


def check_asr(arrays: Arrays) -> None:
    logits, labels = arrays["logits"], arrays["labels"]

    def rate(answers, mask):
        counts = _counts(logits, answers, mask)
        return metrics.percent(counts.correct, counts.total) / 100

    everyone, zeros = np.ones(len(labels), bool), np.zeros_like(labels)
    for name, answers, mask in (
        ("tacc", labels, everyone),
        ("asr_backdoor", zeros, labels != 0),
        ("asr_targeted_flip", zeros + 2, labels == 0),
    ):
        np.testing.assert_allclose(
            rate(answers, mask), arrays[f"expected_{name}"], rtol=1e-9, err_msg=name
        )


# --------------------------------------------------------------------- selection


def check_selection(arrays: Arrays) -> None:
    """The published schedules, with ids from 1; each holds the same clients."""
    population, rounds = int(arrays["num_clients"]), int(arrays["rounds"])
    facts = {
        "population": population,
        "cohort_size": int(arrays["clients_per_round"]),
        "num_malicious": int(arrays["num_malicious"]),
        "rounds": rounds,
        "offset": int(arrays["round_seed_offset"]),
        "mode": "random",
        "forced": False,
        "malicious_in_burst": None,
    }
    malicious_ids = published_clients(population, facts["num_malicious"])
    np.testing.assert_array_equal(
        malicious_ids + 1, np.sort(arrays["expected_malicious_ids"])
    )
    malicious = np.isin(np.arange(population), malicious_ids)
    modes = {
        "expected_random": {},
        "expected_random_with_forced": {"forced": True},
        "expected_bursty_report": {"mode": "bursty"},
        "expected_periodic_code": {"mode": "periodic", "forced": True},
    }
    for name, options in modes.items():
        schedule = leadfl_schedule.leadfl_schedule(**facts | options)
        np.testing.assert_array_equal(schedule + 1, arrays[name], err_msg=name)
        replay = leadfl_schedule.leadfl(**facts | options)
        ids, present = jax.vmap(replay.sample, (None, 0, None, None))(
            jax.random.key(0),
            jnp.arange(1, rounds + 1),
            jnp.asarray(malicious),
            jnp.ones(population, bool),
        )
        assert present.all()
        np.testing.assert_array_equal(ids, np.sort(schedule, axis=1), err_msg=name)
        np.testing.assert_array_equal(
            malicious[ids].sum(1), arrays[f"{name}_count"], err_msg=name
        )


ADAPTERS = {
    "drop_family": {
        "model_forward": check_model_forward,
        "evaluate": check_evaluate,
    },
    "fedredefense_family": {
        "client_train": check_client_train,
        "asr": check_asr,
    },
    "leadfl_family": {"selection": check_selection},
}
