"""Golden vectors of peers: rules that cluster clients or look at signs and layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from adapters_defenses import make_cohort, make_context
from jax import Array
from peers import (
    Case,
    Network,
    assert_params,
    assert_scores,
    one_round,
)

from fedjax_sim.contracts.defense import Cohort
from fedjax_sim.contracts.model import Network as NeuralNetwork
from fedjax_sim.defenses.deepsight import accept, division_differences, inspect
from fedjax_sim.defenses.parts.clipping import clip_factors, median_norm, shorten
from fedjax_sim.defenses.rflbat import (
    cluster_scores,
    distance_sums,
    most_diverse,
    principal_plane,
    within,
)
from fedjax_sim.defenses.signguard import sign_features
from fedjax_sim.models import build
from fedjax_sim.numerics.distances import row_lengths, unit_rows
from fedjax_sim.numerics.flat import flat_layout
from fedjax_sim.numerics.gram import gram
from fedjax_sim.numerics.hdbscan import hdbscan
from fedjax_sim.testing.quick_jit import quick_jit


def check_hdbscan(case: Case) -> None:
    """The labels, of points or of distances."""
    data = np.asarray(case["data"], float)
    if not case["precomputed"]:
        data = np.linalg.norm(data[:, None] - data[None, :], axis=-1)
    samples = int(case["min_samples"])
    labels = hdbscan(
        jnp.asarray(data, jnp.float32),
        jnp.ones(len(data), bool),
        min_cluster_size=int(case["min_cluster_size"]),
        min_samples=None if samples < 0 else samples,
        allow_single_cluster=bool(case["allow_single_cluster"]),
    )
    np.testing.assert_array_equal(labels, case["expected_labels"])


def check_signguard(case: Case) -> None:
    """Both clusterings from the given start, and the authors' shorter clip."""
    updates, start = case["updates"], int(case["window_start"])
    every = jnp.ones(len(updates), bool)
    features = sign_features(
        jnp.asarray(updates), every, start, int(case["window_size"])
    )
    assert_scores(features, case["sign_features"])
    fraction = (int(case["window_size"]) + 0.5) / updates.shape[1]
    for clustering, variant, accepted, expected in (
        ("dbscan", "paper", "dbscan_accepted", "dbscan_update"),
        ("meanshift", "authors", "meanshift_accepted", "authors_update"),
    ):
        with given_start(start):
            _, judged, result = one_round(
                "signguard",
                updates,
                numbers={
                    key: float(case[key]) for key in ("lower_bound", "upper_bound")
                },
                fixed={
                    "variant": variant,
                    "clustering": clustering,
                    "window": fraction,
                },
                rows=16,
            )
        labels = judged.scores["sign_cluster"]
        _assert_same_clusters(labels, case[f"{clustering}_labels"])
        np.testing.assert_array_equal(judged.weights > 0, case[accepted])
        assert_scores(judged.scores["norm"], case["norms"])
        assert_params(result.update, case[expected])


@contextmanager
def given_start(start: int) -> Iterator[None]:
    """Lets whoever draws an integer get this one."""
    with mock.patch.object(jax.random, "randint", lambda *args: jnp.int32(start)):
        yield


def _assert_same_clusters(labels: np.ndarray, expected: np.ndarray) -> None:
    """Compares who is with whom, and who is noise."""
    np.testing.assert_array_equal(labels < 0, expected < 0)
    together, wanted = (x[:, None] == x[None, :] for x in (labels, expected))
    np.testing.assert_array_equal(together, wanted)


def check_auror(case: Case) -> None:
    """The indicative parameters, the votes, who is excluded."""
    start, size = int(case["head_start"]), int(case["head_size"])
    head = lambda vector: vector[..., start : start + size]
    numbers = {"threshold": float(case["threshold"])}
    network = Network(last_layer=head)
    state, judged, result = one_round(
        "auror", case["updates"], numbers=numbers, network=network, rows=16
    )
    ((indicative,), _) = state
    found = start + np.flatnonzero(indicative)
    np.testing.assert_array_equal(found, case["expected_indicative"])
    votes = judged.scores["minority_votes"]
    np.testing.assert_array_equal(votes, case["expected_minority_votes"])
    np.testing.assert_array_equal(judged.weights == 0, case["expected_excluded"])
    assert_params(result.update, case["expected_update"])


def check_lasa(case: Case) -> None:
    """As published, and as two peers have it."""
    numbers = {key: float(case[key]) for key in ("norm_bound", "sign_bound")}
    network = _tensors(
        tuple(case["layer_offsets"].tolist()), tuple(case["layer_ndims"].tolist())
    )
    for variant, update in (
        ("paper", "paper_update"),
        ("authors", "authors_formula_update"),
        ("flpoison", "flpoison_update"),
    ):
        fixed = {"variant": variant, "sparsity": float(case["sparsity"])}
        _, judged, result = one_round(
            "lasa",
            case["updates"],
            numbers=numbers,
            fixed=fixed,
            network=network,
            rows=16,
        )
        kept = judged.scores["tensors_kept"]
        np.testing.assert_allclose(kept, case[f"{variant}_masks"].mean(0), rtol=1e-6)
        assert_params(result.update, case[update])


def check_rflbat(case: Case) -> None:
    """The plane, and with the given clusters the scores and who is accepted."""
    updates, labels = case["updates"], np.full(len(case["updates"]), -1)
    n = len(updates)
    cohort = make_cohort(np.pad(updates, ((0, -n % 32), (0, 0))))
    mask = jnp.arange(n + -n % 32) < n
    cohort = cohort._replace(weights=mask.astype(jnp.float32))
    components, points, unit = principal_plane(cohort.updates, mask)
    sums = _distance_sums(points, mask)
    if np.ptp(updates, axis=0).any():
        for actual, expected in (
            (components, case["expected_components"].T),
            (unit * points[:n].T, case["expected_projection"].T),
        ):
            signs = np.sign((actual * expected).sum(1))[:, None]
            assert_params(signs * actual, expected, 2e-4)
        assert_scores(unit * sums[:n], case["expected_distance_sums"])
    kept = within(sums, mask, float(case["eps1"]))
    np.testing.assert_array_equal(kept[:n], case["expected_stage1"])
    labels[np.flatnonzero(case["expected_stage1"])] = case["cluster_labels"]
    padded = jnp.asarray(np.pad(labels, (0, -n % 32), constant_values=-1))
    scores, accepted = _diverse(cohort, points, padded, float(case["eps2"]))
    wanted = case["expected_cluster_scores"]
    assert_scores(scores[: len(wanted)], wanted)
    assert scores.argmin() == case["expected_cluster"]
    np.testing.assert_array_equal(accepted[:n], case["expected_accepted"])
    mean = updates[np.asarray(accepted[:n])].mean(0)
    assert_params(mean, case["expected_update"])
    # With clusters of its own: the same where all are in one.
    numbers = {key: float(case[key]) for key in ("eps1", "eps2")}
    _, judged, result = one_round("rflbat", updates, numbers=numbers)
    assert np.isfinite(result.update).all()
    np.testing.assert_array_equal(
        judged.scores["plane_cluster"] >= 0, case["expected_stage1"]
    )


_distance_sums = quick_jit(distance_sums)


@quick_jit
def _diverse(cohort: Cohort, points: Array, labels: Array, eps2: float):
    products = gram(unit_rows(cohort.updates))
    scores = cluster_scores(products, labels, 9)
    return scores, most_diverse(cohort, points, labels, eps2)


def check_deepsight(case: Case) -> None:
    """Every quantity of the published rule, with the given random images."""
    updates = case["updates"]
    n, order = len(updates), _flax_order(tuple(case["layer_sizes"].tolist()))
    channels, *size = case["noise"].shape[2:]
    network = _two_layers(tuple(case["layer_sizes"].tolist()), (*size, channels))
    # Filled up to one size: clients of weight 0, and images.
    rows = jnp.asarray(np.pad(updates[:, order], ((0, -n % 32), (0, 0))), jnp.float32)
    start = jnp.asarray(case["global_params"][order], jnp.float32)
    mask = jnp.arange(len(rows)) < n
    noise = jnp.asarray(case["noise"].transpose(0, 1, 3, 4, 2), jnp.float32)
    seen, ratios = _inspected(network, int(case["min_cluster_size"]))(
        rows, start, noise, mask, int(case["min_samples"])
    )
    seen, ratios = jax.tree.map(np.asarray, (seen, ratios))
    assert_scores(seen.energies[:n], case["paper_neups"])
    for actual, expected in (
        (seen.threshold_exceedings, "threshold_exceedings"),
        (seen.suspicious, "suspicious"),
    ):
        np.testing.assert_array_equal(actual[:n], case[f"paper_{expected}"])
    np.testing.assert_allclose(ratios[:, :n], case["paper_ddifs"], rtol=1e-3)
    found = {
        "cosine": seen.by_cosine[None],
        "neup": seen.by_energy[None],
        "ddif": seen.by_ratio,
        "final": seen.labels[None],
    }
    for name, labels in found.items():
        wanted = np.reshape(case[f"paper_labels_{name}"], (-1, n))
        for actual, expected in zip(labels[:, :n], wanted, strict=True):
            _assert_same_clusters(actual, expected)
    assert_scores(seen.together[:n, :n], case["paper_merged_distances"])
    accepted = np.asarray(accept(seen, mask, float(case["tau"])))[:n]
    np.testing.assert_array_equal(accepted, case["paper_accepted"])
    norms = np.linalg.norm(updates, axis=1)
    limit = float(median_norm(jnp.asarray(norms), jnp.ones(n, bool)))
    assert_scores(limit, case["clip"])
    kept = make_cohort(updates[accepted])
    kept = shorten(kept, clip_factors(row_lengths(kept.updates), limit))
    assert_params(np.asarray(kept.updates).mean(0), case["paper_update"])


@cache
def _two_layers(
    sizes: tuple[int, int, int], shape: tuple[int, int, int]
) -> NeuralNetwork:
    _, width, classes = sizes
    model = build("mlp", num_classes=classes, image_shape=shape, width=width)
    return NeuralNetwork.of(model, shape, classes)


def _flax_order(sizes: tuple[int, int, int]) -> np.ndarray:
    """Where PyTorch keeps what stands at each place of the flat vector of flax."""
    inputs, width, classes = sizes
    parts, start = [], 0
    for a, b in ((inputs, width), (width, classes)):
        kernel = start + np.arange(a * b).reshape(b, a).T.ravel()
        bias = start + a * b + np.arange(b)
        parts += [bias, kernel]
        start += a * b + b
    return np.concatenate(parts)


@cache
def _inspected(network: NeuralNetwork, min_cluster_size: int) -> Callable:
    def run(updates, params, noise, mask, min_samples):
        context = make_context(np.zeros(0))
        context = context._replace(network=network, global_params=params)
        ratios = division_differences(
            updates,
            jnp.zeros((len(updates), 0)),
            context,
            lambda seed, batch: noise[seed],
            len(noise),
            noise.shape[1],
        )
        clusters = partial(
            hdbscan, min_cluster_size=min_cluster_size, min_samples=min_samples
        )
        return inspect(updates, ratios, mask, network, clusters), ratios

    return quick_jit(run, static_argnums=4)


@cache
def _tensors(offsets: tuple[int, ...], ndims: tuple[int, ...]) -> Network:
    """A network of which the sizes and numbers of axes of its tensors are known."""
    tensors = {
        f"{i:03}": jnp.zeros((1,) * (ndim - 1) + (stop - start,))
        for i, (ndim, (start, stop)) in enumerate(
            zip(ndims, pairwise(offsets), strict=True)
        )
    }
    return Network(layout=flat_layout(tensors))


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "auror": check_auror,
        "deepsight": check_deepsight,
        "hdbscan": check_hdbscan,
        "lasa": check_lasa,
        "rflbat": check_rflbat,
        "signguard": check_signguard,
    },
}
