"""Golden vectors of peers: means of what is near, clipping, stages before a rule."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from adapters_defenses import make_cohort, make_context, make_spec, survivors
from peers import Case, assert_params, assert_scores, one_round

from fedjax_sim.contracts.defense import Cohort
from fedjax_sim.defenses.caf import filter_outliers
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.weak_dp import noisy_mean
from fedjax_sim.numerics.distances import row_lengths
from fedjax_sim.numerics.order_statistics import median
from fedjax_sim.stages import STAGES
from fedjax_sim.stages.arc import clipped_counts
from fedjax_sim.stages.bucketing import in_buckets
from fedjax_sim.testing.quick_jit import quick_jit

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


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "arc": check_arc,
        "bucketing": check_bucketing,
        "caf": check_caf,
        "centered_clipping": check_centered_clipping,
        "geometric_median": check_geometric_median,
        "mda": check_mda,
        "meamed": check_meamed,
        "monna": check_monna,
        "nnm": check_nnm,
        "smea": check_smea,
        "weak_dp": check_weak_dp,
    },
}
