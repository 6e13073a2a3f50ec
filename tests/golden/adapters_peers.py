"""Golden vectors of the rules and attacks that peer packages have.

A check takes the arrays of one file and raises AssertionError. `ADAPTERS` maps the
family (directory) and a case (file name up to "__") to its check. The tolerances are
those of README.md.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from adapters_attacks import make_view
from adapters_defenses import make_cohort, make_context, make_spec, survivors
from jax import Array

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.attacks.altermin import alternate
from fedjax_sim.attacks.constrain_and_scale import constrained
from fedjax_sim.attacks.edge_case import edge_counts
from fedjax_sim.attacks.mimic import MimicState
from fedjax_sim.attacks.mimic import search as mimic_search
from fedjax_sim.attacks.optimal_alie import line as alie_line
from fedjax_sim.attacks.optimal_ipm import line as ipm_line
from fedjax_sim.attacks.parts.boosting import multiplied
from fedjax_sim.attacks.parts.optimal import moments
from fedjax_sim.attacks.parts.optimal import search as optimal_search
from fedjax_sim.attacks.parts.projection import onto_ball, project
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.attack import CraftView
from fedjax_sim.contracts.client import Batch
from fedjax_sim.contracts.dataset import Normalization, Partition, Trigger
from fedjax_sim.contracts.defense import Aggregate, Cohort
from fedjax_sim.contracts.model import Network as NeuralNetwork
from fedjax_sim.data.image_triggers import affine, signal
from fedjax_sim.data.normalize import normalization
from fedjax_sim.data.poison import poison_plan
from fedjax_sim.data.triggers import make_trigger, stamp
from fedjax_sim.data.warping import warp, warping_grid
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.caf import filter_outliers
from fedjax_sim.defenses.deepsight import accept, division_differences, inspect
from fedjax_sim.defenses.parts.before import stages_before
from fedjax_sim.defenses.parts.clipping import clip_factors, median_norm, shorten
from fedjax_sim.defenses.rflbat import (
    cluster_scores,
    distance_sums,
    most_diverse,
    principal_plane,
    within,
)
from fedjax_sim.defenses.signguard import sign_features
from fedjax_sim.defenses.weak_dp import noisy_mean
from fedjax_sim.models import build
from fedjax_sim.numerics.distances import gram, row_lengths, unit_rows
from fedjax_sim.numerics.flat import flat_layout
from fedjax_sim.numerics.hdbscan import hdbscan
from fedjax_sim.numerics.order_statistics import median
from fedjax_sim.round.training import sgd
from fedjax_sim.stages import STAGES
from fedjax_sim.stages.arc import clipped_counts
from fedjax_sim.stages.bucketing import in_buckets
from fedjax_sim.testing.quick_jit import quick_jit

Case = dict[str, np.ndarray]
PyTree = Any


def assert_params(actual: Array, expected: np.ndarray, rtol: float = 2e-5) -> None:
    """Compares parameters and updates with |a - b| <= rtol (1 + |b|)."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def assert_scores(actual: Array, expected: np.ndarray, rtol: float = 1e-4) -> None:
    """Compares scores and distances."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


class Network:
    """The parts of a network that a rule reads."""

    def __init__(self, **parts):
        vars(self).update(parts)


class Round(NamedTuple):
    """What came of a round; rows and columns as in the file."""

    state: object
    cohort: Cohort
    result: Aggregate


def one_round(
    name: str,
    updates: np.ndarray,
    *,
    numbers: dict[str, float | int],
    fixed: dict[str, object] | None = None,
    weights: np.ndarray | None = None,
    state=None,
    network: Network | None = None,
    rows: int = 32,
    columns: int = 1,
) -> Round:
    """Carries out a round of a rule.

    The cohort is filled up with clients of weight 0, which must not matter, and with
    parameters that nobody moves, so that files of several shapes share one program.

    Args:
      name: of the rule.
      updates: f32 [n, d].
      numbers: its options that are arguments of the program.
      fixed: its other options.
      weights: of the clients; 1 unless they are given.
      state: before the round, None before the first.
      network: for rules that read one.
      rows, columns: n and d are filled up to a multiple of them.
    """
    n, d = updates.shape
    fixed = fixed or {}
    cohort = make_cohort(np.pad(updates, ((0, -n % rows), (0, -d % columns))))
    given = np.pad(np.ones(n) if weights is None else weights, (0, -n % rows))
    cohort = cohort._replace(weights=jnp.asarray(given, jnp.float32))
    if state is None:
        defense = DEFENSES[name].factory(**fixed, **numbers)
        spec = make_spec(cohort)._replace(network=network)
        state = jax.tree.map(jnp.asarray, defense.init(spec))
    program = _program(name, tuple(fixed.items()), network)
    state, cohort, result = program(state, cohort, numbers)
    cohort, result = jax.tree.map(np.asarray, (cohort, result))
    cohort = jax.tree.map(lambda x: x[:n], cohort)
    cohort = cohort._replace(updates=cohort.updates[:, :d])
    return Round(state, cohort, result._replace(update=result.update[:d]))


@cache
def _program(name: str, fixed: tuple, network: Network | None) -> Callable:
    def run(state, cohort, numbers):
        defense = DEFENSES[name].factory(**dict(fixed), **numbers)
        context = make_context(np.zeros(cohort.updates.shape[1]))
        return defense.aggregate(state, cohort, context._replace(network=network))

    return quick_jit(run)


# --- means of what is near -------------------------------------------------------


def check_geometric_median(case: Case) -> None:
    """As published, as released, and as two peers have it."""
    run = partial(
        one_round, "geometric_median", case["updates"], weights=case["weights"]
    )
    fixed = {"iterations": int(case["iterations"])}
    _, judged, result = run(numbers={"nu": float(case["nu"])}, fixed=fixed, columns=64)
    assert_params(result.update, case["paper_update"])
    np.testing.assert_allclose(judged.scores["weiszfeld_weight"].sum(), 1.0, rtol=1e-5)
    for variant in ("release", "byzfl", "flpoison"):
        *_, result = run(numbers={}, fixed={"variant": variant}, columns=64)
        assert_params(result.update, case[f"{variant}_update"])


def check_centered_clipping(case: Case) -> None:
    """The aggregates of all rounds, each the start of the next."""
    state = None
    for updates, expected in zip(case["updates"], case["expected_update"], strict=True):
        state, _, result = one_round(
            "centered_clipping",
            updates,
            numbers={"tau": float(case["tau"])},
            fixed={"iterations": int(case["iterations"])},
            state=state,
            columns=64,
        )
        assert_params(result.update, expected)


def check_meamed(case: Case) -> None:
    """Also what the peer returns, where no values tie for a place."""
    f = {"num_byzantine": int(case["f"])}
    *_, result = one_round("meamed", case["updates"], numbers=f, columns=64)
    assert_params(result.update, case["expected_update"])
    clear = ~case["tie_mask"].astype(bool)
    assert_params(result.update[clear], case["byzfl_update"][clear])
    updates = jnp.asarray(case["updates"])
    assert_params(median(updates, jnp.ones(len(updates), bool)), case["median"])


def check_monna(case: Case) -> None:
    """With a client that is trusted."""
    trusted = int(case["reference_row"])
    _, judged, result = one_round(
        "monna",
        case["updates"],
        numbers={"num_byzantine": int(case["f"]), "reference_client": trusted},
        fixed={"reference": "client"},
        columns=64,
    )
    np.testing.assert_array_equal(survivors(judged), np.sort(case["selected"]))
    assert_params(result.update, case["expected_update"])


def check_mda(case: Case) -> None:
    f = {"num_byzantine": int(case["f"])}
    _, judged, result = one_round("mda", case["updates"], numbers={}, fixed=f, rows=1)
    np.testing.assert_array_equal(survivors(judged), case["selected"])
    assert_params(result.update, case["expected_update"])
    assert_scores(judged.scores["diameter"], case["diameter"])


def check_smea(case: Case) -> None:
    f = {"num_byzantine": int(case["f"])}
    _, judged, result = one_round("smea", case["updates"], numbers={}, fixed=f, rows=1)
    np.testing.assert_array_equal(survivors(judged), case["selected"])
    assert_params(result.update, case["expected_update"])
    assert_scores(judged.scores["largest_eigenvalue"], case["largest_eigenvalue"])


_EXACT_STEPS = 20


def check_caf(case: Case) -> None:
    """The filter with either largest tau, and with one power step of given vectors."""
    (n, d), f = case["updates"].shape, int(case["f"])
    updates = make_cohort(np.pad(case["updates"], ((0, -n % 32), (0, -d % 64))))
    updates = updates._replace(weights=jnp.asarray(np.arange(n + -n % 32) < n, "f4"))
    vectors = np.asarray(case["start_vectors"], np.float32)
    drawn = jnp.asarray(np.pad(vectors, ((0, -len(vectors) % 64), (0, -d % 64))))
    for variant, name in (
        ("active", "active"),
        ("paper", "paper"),
        ("byzfl", "one_step"),
    ):
        found = _caf(variant)(updates, jnp.int32(f), drawn)
        steps, best = case[f"{name}_eigenvalues"], int(case[f"{name}_best"])
        # Where a far outlier sets the scale, its distance along a direction across it
        # is beyond float32, and dozens of steps multiply the error.
        if len(steps) <= _EXACT_STEPS:
            assert found.steps == len(steps), name
            last = found.last[:n]
            np.testing.assert_allclose(last, case[f"{name}_weights"], 1e-3, 1e-3)
        if 0 < len(steps) <= _EXACT_STEPS:
            assert found.best_step == best, name
            np.testing.assert_allclose(found.eigenvalue, steps[best], 1e-3, 1e-9)
        weights = np.asarray(found.best)[:n]
        mean = weights @ case["updates"] / weights.sum()
        few = len(steps) <= _EXACT_STEPS
        assert_params(mean, case[f"{name}_update"], 1e-3 if few else 2e-3)


@cache
def _caf(variant: str) -> Callable:
    return quick_jit(
        lambda cohort, f, drawn: filter_outliers(
            cohort, f, variant, lambda step: drawn[step]
        )
    )


# --- clipping and noise ----------------------------------------------------------


def check_weak_dp(case: Case) -> None:
    """The clipped updates, and their mean with the given noise in three forms."""
    cohort = make_cohort(case["updates"])
    limit, sigma = float(case["clip"]), float(case["sigma"])
    cohort = shorten(cohort, clip_factors(row_lengths(cohort.updates), limit))
    assert_params(cohort.updates, case["clipped_updates"])
    counts = jnp.asarray(case["num_examples"], jnp.float32)
    noise, own = (
        jnp.asarray(case[key], jnp.float32) for key in ("noise", "client_noise")
    )
    result = noisy_mean(cohort, noise, sigma, "paper")
    assert_params(result.update, case["expected_update"])
    weighted = cohort._replace(weights=counts)
    assert_params(
        noisy_mean(weighted, noise, sigma, "paper").update, case["weighted_update"]
    )
    assert_params(
        noisy_mean(weighted, noise, sigma, "backfed").update, case["backfed_update"]
    )
    assert_params(
        noisy_mean(cohort, own, sigma, "flpoison").update, case["flpoison_update"]
    )


# --- stages in front of a rule ---------------------------------------------------


def staged(name: str, updates: np.ndarray, options: dict, fixed: tuple = ()) -> Cohort:
    """Returns what a stage makes of a cohort, filled up with clients of weight 0."""
    n, d = updates.shape
    cohort = make_cohort(np.pad(updates, ((0, -n % 32), (0, -d % 64))))
    weights = jnp.asarray(np.arange(n + -n % 32) < n, jnp.float32)
    cohort = _stage(name, fixed)(cohort._replace(weights=weights), options)
    cohort = jax.tree.map(lambda x: np.asarray(x)[:n], cohort)
    return cohort._replace(updates=cohort.updates[:, :d])


@cache
def _stage(name: str, fixed: tuple) -> Callable:
    def run(cohort: Cohort, options: dict) -> Cohort:
        stage = STAGES[name].factory(**dict(fixed), **options)
        context = make_context(np.zeros(cohort.updates.shape[1]))
        return stage.apply(stage.init(make_spec(cohort)), cohort, context)[1]

    return quick_jit(run)


def check_nnm(case: Case) -> None:
    """The mixed updates; ties go to the smaller row."""
    mixed = staged("nnm", case["updates"], {"num_byzantine": int(case["f"])})
    assert_params(mixed.updates, case["expected_updates"])
    if not case["selection_is_ambiguous"]:
        assert_params(mixed.updates, case["byzfl_updates"])
    assert_params(mixed.updates.mean(0), case["mean_after"])
    assert_params(np.median(mixed.updates, axis=0), case["median_after"])


def check_arc(case: Case) -> None:
    """Static clipping, and the adaptive one with how many it shortens, and to what."""
    updates, f = case["updates"], int(case["f"])
    clipped = staged("clipping", updates, {"norm": float(case["c"])})
    assert_params(clipped.updates, case["expected_static"])
    clipped = staged("arc", updates, {"num_byzantine": f})
    assert_params(clipped.updates, case["expected_arc"])
    n, most = len(updates), float(case["arc_threshold"])
    assert clipped_counts(n)[f, n] == case["arc_num_clipped"]
    norms = np.linalg.norm(clipped.updates, axis=1)
    assert_scores(norms.max(), most)


def check_bucketing(case: Case) -> None:
    """The buckets of the given order, and four rules behind them."""
    updates, order = case["updates"], case["permutation"]
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    size = int(case["s"])
    cohort = in_buckets(make_cohort(updates), jnp.asarray(place), size)
    first = order[::size]
    np.testing.assert_array_equal(survivors(cohort), np.sort(first))
    buckets = np.asarray(cohort.updates)[first]
    assert_params(buckets, case["expected_buckets"])
    sizes = np.bincount(cohort.scores["bucket"])
    np.testing.assert_array_equal(sizes, case["bucket_sizes"])
    for name, fixed, numbers, expected in (
        ("fedavg", {}, {}, "mean_of_buckets"),
        ("median", {}, {}, "median_of_buckets"),
        (
            "geometric_median",
            {"iterations": 4},
            {"nu": 1e-6},
            "geometric_median_of_buckets",
        ),
        (
            "centered_clipping",
            {"iterations": int(case["clip_iterations"])},
            {"tau": float(case["clip_tau"])},
            "centered_clipping_of_buckets",
        ),
    ):
        *_, result = one_round(name, buckets, numbers=numbers, fixed=fixed, columns=64)
        assert_params(result.update, case[expected])


# --- local training --------------------------------------------------------------


def regression(images: Array, params: PyTree) -> Array:
    """Logits of softmax regression: weights [C, D] and bias, as PyTorch has them."""
    return images @ params["weight"].T + params["bias"]


def as_regression(flat: np.ndarray, classes: int) -> PyTree:
    """Cuts f32 [(D + 1) C] into weights [C, D] and bias [C]."""
    flat = np.asarray(flat, np.float32)
    weight = flat[:-classes].reshape(classes, -1)
    return {"weight": jnp.asarray(weight), "bias": jnp.asarray(flat[-classes:])}


def as_vector(params: PyTree) -> np.ndarray:
    """The flat vector of softmax regression."""
    parts = params["weight"].ravel(), params["bias"]
    return np.concatenate([np.asarray(part) for part in parts])


def mean_loss(params: PyTree, images: Array, labels: Array) -> Array:
    logits = regression(images, params)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


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


# --- clusters --------------------------------------------------------------------


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


# --- attacks ---------------------------------------------------------------------


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

    def answer(updates: Array) -> Array:
        return rule.aggregate(state, base._replace(updates=updates), context)[2].update

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
        return jnp.linalg.norm(view.answer(sent) - mean)

    return found, line(mean, std, found.best), jax.lax.map(distance, tried)


# --- triggers and data poisons ---------------------------------------------------


def stamped(images: np.ndarray, trigger: Trigger) -> np.ndarray:
    """Returns stamped images as 8-bit pixels, not rounded."""
    pixels = jnp.asarray(images, jnp.float32) / 255
    shown = stamp(pixels, trigger, jnp.ones(len(images), bool))
    return 255 * np.asarray(shown)


def assert_pixels(actual: np.ndarray, case: Case) -> None:
    """Compares pixels, and what 8 bits make of them where that is no toss-up."""
    np.testing.assert_allclose(actual, case["expected"], rtol=2e-5, atol=2e-3)
    if "expected_u8" in case:
        clear = np.abs(actual % 1 - 0.5) > 1e-2
        rounded = np.clip(np.round(actual), 0, 255)
        np.testing.assert_array_equal(rounded[clear], case["expected_u8"][clear])


def _plain(images: np.ndarray) -> Normalization:
    return normalization("unit", images.shape[-1])


def check_blended(case: Case) -> None:
    rate, images = float(case["rate"]), case["images"]
    trigger = affine(
        1 - rate, rate * np.asarray(case["pattern"], float), _plain(images)
    )
    assert_pixels(stamped(images, trigger), case)


def check_sig(case: Case) -> None:
    """Also what BackdoorBench makes of it."""
    images, shape = case["images"], case["images"].shape[1:]
    delta, frequency = float(case["delta"]), float(case["frequency"])
    assert_scores(signal(shape[1], delta, frequency), case["signal"])
    for share, expected in ((1.0, "expected"), (0.2, "backdoorbench_u8")):
        text = f"sig(delta={delta}, frequency={frequency}, share={share})"
        found = stamped(images, make_trigger(text, shape, _plain(images)))
        if share == 1:
            assert_pixels(found, case)
            continue
        clear = np.abs(found - np.round(found)) > 1e-2
        np.testing.assert_array_equal(np.floor(found)[clear], case[expected][clear])


def check_wanet(case: Case) -> None:
    """The grid, the warped images, and those with jitter."""
    images, strength = case["images"], float(case["strength"])
    height, width = images.shape[1:3]
    grid = warping_grid(
        case["control"], height, width, strength, float(case["grid_rescale"])
    )
    assert_params(grid, case["expected_grid"])
    pixels = jnp.asarray(images, jnp.float32)
    assert_pixels(np.asarray(warp(pixels, jnp.asarray(grid))), case)
    shaken = np.clip(grid[None] + case["jitter"] / height, -1, 1).astype(np.float32)
    found = warp(pixels, jnp.asarray(shaken))
    np.testing.assert_allclose(found, case["expected_noise_mode"], 2e-5, 1e-2)


def check_clean_label(case: Case) -> None:
    """One client that has all samples."""
    labels = np.asarray(case["labels"])
    everything = Partition(np.arange(len(labels))[None], np.array([len(labels)]))
    plan = poison_plan(
        everything,
        labels,
        [0],
        dpr=float(case["ratio"]),
        victim_class=int(case["target_class"]),
    )
    np.testing.assert_array_equal(plan, case["expected_poisoned"])
    np.testing.assert_array_equal(labels, case["expected_labels"])


def check_edge_case_counts(case: Case) -> None:
    poisoned, clean = edge_counts(
        int(case["total"]), float(case["ratio"]), int(case["available"])
    )
    assert poisoned == case["expected_poisoned"]
    assert clean == case["expected_benign"]


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "altermin": check_altermin,
        "arc": check_arc,
        "auror": check_auror,
        "blended": check_blended,
        "bucketing": check_bucketing,
        "clean_label": check_clean_label,
        "edge_case_counts": check_edge_case_counts,
        "sig": check_sig,
        "wanet": check_wanet,
        "caf": check_caf,
        "centered_clipping": check_centered_clipping,
        "geometric_median": check_geometric_median,
        "deepsight": check_deepsight,
        "constrain_and_scale": check_constrain_and_scale,
        "fedprox": check_fedprox,
        "hdbscan": check_hdbscan,
        "lasa": check_lasa,
        "mda": check_mda,
        "meamed": check_meamed,
        "mimic": check_mimic,
        "mimic_variant": check_mimic_variant,
        "monna": check_monna,
        "nnm": check_nnm,
        "optimal_attack": check_optimal_attack,
        "pgd_projection": check_pgd_projection,
        "rflbat": check_rflbat,
        "signguard": check_signguard,
        "smea": check_smea,
        "weak_dp": check_weak_dp,
    },
}
