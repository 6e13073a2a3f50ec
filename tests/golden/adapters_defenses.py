"""Golden vectors of the defences: how each stored case is put to our functions.

A check takes the arrays of one file and raises AssertionError. `ADAPTERS` maps a
family (directory) and a case (file name up to "__", or without its trailing number)
to its check. The tolerances are those of README.md.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from arrays import placed
from jax import Array

from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    Reduce,
    Root,
    RoundContext,
)
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.dnc import keep_inliers, outlier_scores
from fedjax_sim.defenses.flame import median_bound, shorten_updates
from fedjax_sim.defenses.flare import discrepancies
from fedjax_sim.defenses.fldetector import prediction_errors
from fedjax_sim.defenses.parts.majority_component import majority_component
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.reductions import coordinatewise, weighted_mean
from fedjax_sim.defenses.parts.ward_clusters import ward_labels_on_device
from fedjax_sim.defenses.prodigy import prodigy_scores
from fedjax_sim.defenses.random_aggregation import with_random_weights
from fedjax_sim.numerics.cosines import cosine_distances
from fedjax_sim.numerics.distances import (
    pairwise_distances,
    squared_distances,
)
from fedjax_sim.numerics.flat import flat_layout
from fedjax_sim.numerics.gap_statistic import gap_statistic
from fedjax_sim.numerics.gram import gram
from fedjax_sim.numerics.kmeans_1d import upper_cluster
from fedjax_sim.numerics.lbfgs import hessian_vector_product
from fedjax_sim.numerics.order_statistics import median

Case = dict[str, np.ndarray]

# --- one round -------------------------------------------------------------------


def make_cohort(
    updates: np.ndarray,
    buffers: np.ndarray | None = None,
    ids: np.ndarray | None = None,
) -> Cohort:
    """Returns a cohort of clients of weight 1 (ids 0..n-1 unless given)."""
    n = len(updates)
    return Cohort(
        updates=placed(updates),
        buffers=placed(np.zeros((n, 0)) if buffers is None else buffers),
        weights=placed(np.ones(n)),
        client_ids=placed(np.arange(n) if ids is None else ids, np.int32),
        num_examples=placed(np.full(n, 100), np.int32),
        scores={},
    )


def make_context(params: Array, buffers: Array | None = None) -> RoundContext:
    """Returns the context of round 1 with the given global model."""
    return RoundContext(
        round=jnp.int32(1),
        key=jax.random.key(0),
        global_params=placed(params),
        global_buffers=placed(np.zeros(0) if buffers is None else buffers),
        network=None,  # the rules that need one are given it
        malicious=None,
    )


def make_spec(
    cohort: Cohort,
    population: int | None = None,
    num_malicious: int = 0,
) -> FederationSpec:
    """Returns the facts of a federation that sends `cohort`."""
    n, d = cohort.updates.shape
    return FederationSpec(
        population=population or n,
        cohort_size=n,
        num_malicious=num_malicious,
        layout=flat_layout({"w": placed(np.zeros(d))}),
        num_buffers=cohort.buffers.shape[1],
        network=None,
    )


def one_round(
    defense: Defense,
    cohort: Cohort,
    context: RoundContext,
    spec: FederationSpec | None = None,
) -> tuple[Cohort, Aggregate]:
    """Returns the judged cohort and the aggregate of a first round."""
    # The functions of a root or a network are no arguments of a jitted function.
    _, cohort, result = jax.jit(
        lambda state, cohort: defense.aggregate(state, cohort, context)
    )(defense.init(spec or make_spec(cohort)), cohort)
    # What a check picks from them compiles nothing more.
    return jax.tree.map(np.asarray, (cohort, result))


def survivors(cohort: Cohort) -> np.ndarray:
    """Returns the rows that still count."""
    return np.flatnonzero(np.asarray(cohort.weights) > 0)


# --- family of DROP --------------------------------------------------------------


def assert_params(actual: Array, expected: np.ndarray) -> None:
    """Compares parameters with |a - b| <= 2e-5 (1 + |b|)."""
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def assert_scores(actual: Array, expected: np.ndarray) -> None:
    """Compares scores and weights with rtol 1e-4."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def _check_reduction(case: Case, reduce: Reduce) -> None:
    # The reduction itself, because the reference screens nothing: where it
    # propagates a NaN, `pipeline` would exclude the client.
    cohort = make_cohort(case["updates"], case["buffers"])
    old_params, old_buffers = case["global_params"], case["global_buffers"]
    result = jax.jit(reduce)(cohort, make_context(old_params, old_buffers))
    for suffix, rate in (("", "server_lr"), ("_lr05", "server_lr_alt")):
        rate = float(case[rate])
        assert_params(
            old_params + rate * result.update, case["expected_global" + suffix]
        )
        buffers = rate * result.buffers + (1 - rate) * old_buffers
        assert_params(buffers, case["expected_buffers" + suffix])


def check_drop_fedavg(case: Case) -> None:
    """Mean of parameters and buffers, also with server_lr 0.5."""
    _check_reduction(case, weighted_mean())


def check_drop_median(case: Case) -> None:
    """Lower median of the released code, and the midpoint."""
    _check_reduction(
        case, coordinatewise(lambda x, mask: median(x, mask, even="lower"))
    )
    context = make_context(case["global_params"])
    result = coordinatewise(median)(make_cohort(case["updates"]), context)
    assert_params(context.global_params + result.update, case["midpoint_global"])


def check_drop_multikrum(case: Case) -> None:
    """Multi-Krum as released (f = n // 2, Euclidean) and as published."""
    context = make_context(case["global_params"], case["global_buffers"])
    cohort = make_cohort(case["updates"], case["buffers"])
    factory = DEFENSES["multikrum"].factory

    judged, result = one_round(factory(variant="authors"), cohort, context)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores"], rtol=1e-4, atol=1e-6
    )
    if not case["selection_is_ambiguous"]:
        selected = np.flatnonzero(case["expected_selected_mask"])
        np.testing.assert_array_equal(survivors(judged), selected)
    assert_params(context.global_params + result.update, case["expected_global"])
    assert_params(result.buffers, case["expected_buffers"])

    if "paper_f" not in case:
        return
    f = int(case["paper_f"])
    judged, result = one_round(factory(num_byzantine=f), cohort, context)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["paper_scores"], rtol=1e-4
    )
    selected = np.flatnonzero(case["paper_selected_mask"])
    np.testing.assert_array_equal(survivors(judged), selected)
    assert_params(context.global_params + result.update, case["paper_global"])
    krum = DEFENSES["krum"].factory(num_byzantine=f)
    judged, _ = one_round(krum, cohort, context)
    assert survivors(judged).tolist() == [case["paper_krum_index"]]


def on_device(updates: np.ndarray, ids: np.ndarray) -> Array:
    """The labels that the device gives where no host does; of one program for all n."""
    n, width = len(updates), max(len(updates), 25)
    distances = np.zeros((width, width), np.float32)
    distances[:n, :n] = pairwise_distances(updates)
    mask = np.isfinite(updates).all(1)
    mask, ids = (np.pad(a, (0, width - n)) for a in (mask, np.asarray(ids)))
    return _labels_on_device(distances, mask, ids.astype(np.int32))[:n]


_labels_on_device = jax.jit(ward_labels_on_device)


def check_drop_droplet(case: Case) -> None:
    """Ward clusters and activity monitoring over several rounds."""
    defense = DEFENSES["droplet"].factory(
        penalty=float(case["penalty"]), reward=float(case["reward"])
    )
    population = int(case["n_federation"])
    params, buffers = case["global_params"], case["global_buffers"]
    state = None
    aggregate = jax.jit(defense.aggregate)
    for r, ids in enumerate(case["selected"]):
        cohort = make_cohort(case["updates"][r], case["buffers"][r], ids)
        if state is None:
            state = defense.init(make_spec(cohort, population))
        state, cohort, result = aggregate(state, cohort, make_context(params, buffers))
        params, buffers = params + result.update, result.buffers

        for labels in (cohort.scores["ward_label"], on_device(case["updates"][r], ids)):
            np.testing.assert_array_equal(labels, case["expected_labels"][r])
        np.testing.assert_array_equal(
            cohort.scores["suspicious"], case["expected_suspicious"][r]
        )
        np.testing.assert_array_equal(
            cohort.weights > 0, case["expected_survivors"][r].astype(bool)
        )
        (_, activity), _ = state
        np.testing.assert_allclose(
            activity.penalties, case["expected_penalties"][r], rtol=1e-5, atol=1e-6
        )
        assert (not survivors(cohort).size) == case["expected_round_skipped"][r]
        assert_params(params, case["expected_global"][r])
        assert_params(buffers, case["expected_buffers"][r])


def _with_server(context: RoundContext, params: Array, buffers: Array) -> RoundContext:
    """Adds a server whose training ends in the given model."""
    model = GlobalModel(jnp.asarray(params), jnp.asarray(buffers))
    root = Root(jnp.zeros((1, 1, 1, 1)), jnp.zeros(1, int), lambda start, key: model)
    return context._replace(root=root)


def check_drop_fltrust(case: Case) -> None:
    """FLTrust on updates as published, on models as released."""
    context = make_context(case["global_params"], case["global_buffers"])
    context = _with_server(context, case["server_model"], case["server_buffers"])
    cohort = make_cohort(case["updates"], case["buffers"])
    factory = DEFENSES["fltrust"].factory
    judged, result = one_round(factory(variant="authors"), cohort, context)
    assert_scores(judged.scores["trust"], case["expected_scores_coded"])
    # The code multiplies the model itself by the server's rate, buffers included.
    rate = float(case["server_lr"])
    model = context.global_params + result.update
    assert_params(rate * model, case["expected_global_coded"])
    assert_params(rate * result.buffers, case["expected_buffers_coded"])

    server = case["global_params"] + case["server_update"]
    context = _with_server(context, server, case["server_buffers"])
    judged, result = one_round(factory(), cohort, context)
    assert_scores(judged.scores["trust"], case["expected_scores"])
    params = context.global_params + rate * result.update
    assert_params(params, case["expected_global"])


def check_drop_foolsgold(case: Case) -> None:
    """FoolsGold as released, over several rounds."""
    start, size = int(case["head_start"]), int(case["head_size"])
    head = lambda vector: vector[..., start : start + size]
    network = SimpleNamespace(last_layer=head)
    defense = DEFENSES["foolsgold"].factory(variant="authors")
    params, buffers = case["global_params"], case["global_buffers"]
    state = None
    for r, ids in enumerate(case["selected"]):
        cohort = make_cohort(case["updates"][r], case["buffers"][r], ids)
        if state is None:
            spec = make_spec(cohort, int(case["n_federation"]))
            state = defense.init(spec._replace(network=network))
        context = make_context(params, buffers)._replace(network=network)
        state, cohort, result = defense.aggregate(state, cohort, context)
        params, buffers = params + result.update, result.buffers
        ((history,), _) = state
        assert_params(history, case["expected_history"][r])
        weights = cohort.scores["foolsgold_weight"]
        if case["authors_code_gives_nan"]:
            # A client that sends zeros resembles nobody; nobody becomes NaN.
            assert np.isfinite(weights).all()
            assert np.isfinite(params).all()
        else:
            assert_scores(weights, case["expected_weights"][r])
            assert_params(params, case["expected_global"][r])
            assert_params(buffers, case["expected_buffers"][r])


def check_drop_rlr(case: Case) -> None:
    """The mean, negated where too few signs agree."""
    defense = DEFENSES["rlr"].factory(threshold=int(case["threshold"]))
    context = make_context(case["global_params"])
    _, result = one_round(defense, make_cohort(case["updates"]), context)
    params = context.global_params + float(case["server_lr"]) * result.update
    assert_params(params, case["expected_global"])
    mean = case["updates"].mean(0)
    signs = np.sign(result.update * mean)
    moved = mean != 0
    assert moved.any()
    rates = np.sign(case["expected_lr_vector"])
    np.testing.assert_array_equal(signs[moved], rates[moved])


def check_drop_random_aggregation(case: Case) -> None:
    """Weights from given draws."""
    top_k = int(case["top_k"])
    cohort = with_random_weights(
        make_cohort(np.zeros((len(case["uniforms"]), 1))),
        jnp.asarray(case["uniforms"]),
        "softmax" if case["softmax"] else "sum",
        None if top_k < 0 else top_k,
    )
    assert_scores(cohort.weights, case["expected_weights"])


def check_drop_flame(case: Case) -> None:
    """FLAME as released and as published, without the noise; its deviation."""
    context = make_context(case["global_params"], case["global_buffers"])
    cohort = make_cohort(case["updates"], case["buffers"])
    sigma = float(case["noise_sigma"])
    factory = partial(DEFENSES["flame"].factory, noise_sigma=sigma)
    np.testing.assert_allclose(
        cosine_distances(cohort.updates, context.global_params),
        case["expected_cos_distance"],
        rtol=2e-4,
        atol=5e-7,  # rounding errors of the stored matrix, also on its diagonal
    )
    admitted = np.flatnonzero(case["expected_benign_mask"])

    judged, result = one_round(factory(variant="authors"), cohort, context)
    np.testing.assert_array_equal(survivors(judged), admitted)
    np.testing.assert_allclose(
        judged.scores["clip_bound"], case["expected_clip"], rtol=1e-5
    )
    assert_scores(
        judged.scores["clip_factor"][admitted], case["expected_model_scale"][admitted]
    )
    assert_params(
        context.global_params + result.update, case["expected_prenoise_global"]
    )
    assert_params(result.buffers, case["expected_prenoise_buffers"])
    std = _noise_deviation(factory(variant="authors"), judged, context)
    np.testing.assert_allclose(std, case["expected_noise_std_as_coded"], rtol=0.05)

    judged, result = one_round(factory(), cohort, context)
    published = np.flatnonzero(case["expected_labels_precomputed"] == 0)
    np.testing.assert_array_equal(survivors(judged), published)
    np.testing.assert_allclose(
        judged.scores["clip_bound"], case["paper_clip"], rtol=1e-5
    )
    assert_params(context.global_params + result.update, case["paper_global_prenoise"])
    std = _noise_deviation(factory(), judged, context)
    np.testing.assert_allclose(std, case["paper_noise_std"], rtol=0.05)

    mixed = pipeline(
        median_bound(),
        majority_component(compare_rows=True),
        shorten_updates(),
    )
    _, result = one_round(mixed, cohort, context)
    expected = case["paper_global_prenoise_coded_admission"]
    assert_params(context.global_params + result.update, expected)


def _noise_deviation(defense: Defense, judged: Cohort, context: RoundContext) -> float:
    """Returns the deviation of the noise that FLAME adds, by many draws."""
    d = 20_000
    spec = make_spec(make_cohort(np.zeros((1, d))))
    # Around 0, where float32 holds the smallest noise.
    model = GlobalModel(jnp.zeros(d), jnp.zeros(0))
    _, model = defense.after(defense.init(spec), model, judged, context)
    return float(model.params.std())


def check_drop_flare(case: Case) -> None:
    """FLARE, with a network that returns the given features of each client."""
    updates = jnp.asarray(case["updates"])
    features = jnp.asarray(case["plrs"])
    context = make_context(case["global_params"], case["global_buffers"])

    def features_of(params: Array, buffers: Array, images: Array) -> Array:
        del buffers, images
        gaps = jnp.abs(params[None] - (context.global_params[None] + updates)).sum(1)
        return features[gaps.argmin()]

    m = features.shape[1]
    context = context._replace(
        network=SimpleNamespace(features=features_of),
        root=Root(jnp.zeros((m, 1, 1, 1)), jnp.zeros(m, int), lambda model, key: model),
    )
    distances = np.array(discrepancies(features, float(case["sigma"])))
    np.fill_diagonal(distances, case["expected_mmd"].diagonal())
    np.testing.assert_allclose(distances, case["expected_mmd"], rtol=1e-4, atol=2e-6)

    defense = DEFENSES["flare"].factory(
        temperature=float(case["temperature"]), kernel_width=float(case["sigma"])
    )
    cohort = make_cohort(updates, case["buffers"])
    judged, result = one_round(defense, cohort, context)
    np.testing.assert_array_equal(judged.scores["chosen"], case["expected_counts"])
    assert_scores(judged.scores["trust"], case["expected_trust"])
    assert_params(context.global_params + result.update, case["expected_global"])
    assert_params(result.buffers, case["expected_buffers"])


def check_drop_iqr_filter(case: Case) -> None:
    """The filter by mean distances, and its fence."""
    k = float(case["iqr_k"])
    context = make_context(case["global_params"])
    defense = DEFENSES["iqr_filter"].factory(iqr_k=k)
    judged, result = one_round(defense, make_cohort(case["updates"]), context)
    assert_scores(judged.scores["mean_distance"], case["expected_scores"])
    np.testing.assert_array_equal(
        survivors(judged), np.flatnonzero(case["expected_keep_mask"])
    )
    assert_params(context.global_params + result.update, case["expected_global"])


def check_drop_clipavg(case: Case) -> None:
    """The hybrid of IQR and Clip-Averaging, as printed and corrected."""
    context = make_context(case["global_params"])
    context = context._replace(round=jnp.int32(case["round_index"] + 1))
    for variant in ("as_printed", "corrected"):
        defense = DEFENSES["iqr_clip_avg"].factory(
            variant=variant,
            clip_norm=float(case["clip_gamma"]),
            clip_decay=float(case["clip_decay"]),
            lr=float(case["lr"]),
            local_steps=int(case["local_steps"]),
            iqr_k=float(case["iqr_k"]),
        )
        judged, result = one_round(defense, make_cohort(case["updates"]), context)
        assert_scores(
            judged.scores["clip_factor"], case["expected_clip_coef_" + variant]
        )
        params = context.global_params + float(case["lambda_"]) * result.update
        assert_params(params, case["expected_global_" + variant])


# --- family of FedREDefense ------------------------------------------------------


def assert_vector(actual: Array, expected: np.ndarray) -> None:
    """Compares with rtol 1e-4 and atol 1e-6 of the largest expected entry."""
    atol = 1e-6 * float(np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=atol)


def check_fedredefense_fedavg(case: Case) -> None:
    """Uniform mean of the local models."""
    _, result = one_round(
        DEFENSES["fedavg"].factory(),
        make_cohort(case["updates"]),
        make_context(case["global_params"]),
    )
    assert_vector(result.update, case["expected_update"])
    assert_vector(case["global_params"] + result.update, case["expected_params"])


def check_fedredefense_median(case: Case) -> None:
    """Lower median as released, and the midpoint."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["median"].factory
    _, lower = one_round(factory(variant="authors"), cohort, context)
    assert_vector(lower.update, case["expected_update"])
    assert_vector(case["global_params"] + lower.update, case["expected_params"])
    _, midpoint = one_round(factory(variant="paper"), cohort, context)
    expected = case["expected_params_midpoint"]
    assert_vector(case["global_params"] + midpoint.update, expected)


def check_fedredefense_multi_krum(case: Case) -> None:
    """Multi-Krum in one shot and one after the other."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["multikrum"].factory
    f = int(case["f"])

    judged, result = one_round(factory(num_byzantine=f), cohort, context)
    assert len(survivors(judged)) == case["oneshot_m"]
    np.testing.assert_array_equal(survivors(judged), case["expected_oneshot_indices"])
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_oneshot_scores"], rtol=1e-3
    )
    assert_vector(result.update, case["expected_oneshot_update"])

    single = factory(num_byzantine=f, num_selected=1)
    judged, result = one_round(single, cohort, context)
    assert survivors(judged).tolist() == [case["expected_single_index"]]
    assert_vector(result.update, case["expected_single_update"])

    in_turn = factory(variant="iterative", num_byzantine=f)
    judged, result = one_round(in_turn, cohort, context)
    place = np.asarray(judged.scores["place"])
    wanted = case["expected_iterative_indices"]
    assert len(survivors(judged)) == len(wanted)
    np.testing.assert_array_equal(place[wanted], range(len(wanted)))
    assert_vector(result.update, case["expected_iterative_update"])


def told_ratio(cohort: Cohort, case: Case) -> FederationSpec:
    """Returns a federation with the malicious share of the case."""
    ratio = Fraction(float(case["mali_ratio"])).limit_denominator(10_000)
    times = -(-len(cohort.updates) // ratio.denominator)
    return make_spec(cohort, times * ratio.denominator, times * ratio.numerator)


def check_fedredefense_krum(case: Case) -> None:
    """Krum as released (Euclidean), and with squared distances."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["krum"].factory
    coded, spec = factory(variant="authors"), told_ratio(cohort, case)
    assert coded.init(spec)[0] == case["coded_f"]
    judged, result = one_round(coded, cohort, context, spec)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores"], rtol=1e-3
    )
    (index,) = survivors(judged)
    assert case["expected_acceptable_index_mask"][index]
    np.testing.assert_allclose(result.update, case["updates"][index], rtol=1e-6)

    original = factory(num_neighbors=int(case["paper_num_neighbours"]))
    judged, _ = one_round(original, cohort, context)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores_squared"], rtol=1e-3
    )
    (index,) = survivors(judged)
    scores = case["expected_scores_squared"]
    np.testing.assert_allclose(scores[index], scores.min(), rtol=1e-5)


def check_fedredefense_trimmed_mean(case: Case) -> None:
    """Trimmed mean as released (one more per side than told), and as published."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["trimmed_mean"].factory
    coded, spec = factory(variant="authors"), told_ratio(cohort, case)
    assert coded.init(spec)[0] == case["coded_trim_each_side"]
    _, result = one_round(coded, cohort, context, spec)
    np.testing.assert_allclose(
        case["global_params"] + result.update,
        case["expected_params_f64"],
        rtol=1e-5,
        atol=1e-7,
    )
    paper = factory(num_byzantine=int(case["paper_trim_each_side"]))
    _, result = one_round(paper, cohort, context)
    assert_vector(case["global_params"] + result.update, case["expected_params_paper"])


def check_fedredefense_norm_bound(case: Case) -> None:
    """Norm bounding with the oracle's bound; the code's benign rows are given."""
    ids = case.get("client_ids")
    cohort = make_cohort(case["updates"], ids=ids)
    context = make_context(case["global_params"])
    benign = case["benign_mask_used"].astype(bool)
    context = context._replace(malicious=jnp.asarray(~benign))
    rule = DEFENSES["norm_bound"].factory(bound="oracle")
    judged, result = one_round(rule, cohort, context)
    np.testing.assert_allclose(
        judged.scores["clip_factor"], case["expected_clip_factors"], rtol=1e-4
    )
    assert_vector(result.update, case["expected_update"])
    assert_vector(case["global_params"] + result.update, case["expected_params"])


def check_fedredefense_fltrust(case: Case) -> None:
    """FLTrust; clients without trust count as detected."""
    context = make_context(case["global_params"])
    server = case["global_params"] + case["server_update"]
    context = _with_server(context, server, np.zeros(0, "f4"))
    defense = DEFENSES["fltrust"].factory()
    judged, result = one_round(defense, make_cohort(case["updates"]), context)
    assert_scores(judged.scores["trust"], case["expected_trust_scores"])
    np.testing.assert_array_equal(judged.weights == 0, case["expected_flagged_mask"])
    assert_vector(result.update, case["expected_update"])
    assert_vector(case["global_params"] + result.update, case["expected_params"])


def check_fedredefense_flame(case: Case) -> None:
    """FLAME as published, without the noise; clustering of updates; other bound."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["flame"].factory

    judged, result = one_round(factory(), cohort, context)
    admitted = case["expected_admitted_mask"].astype(bool)
    np.testing.assert_array_equal(judged.weights > 0, admitted)
    factors = np.asarray(judged.scores["clip_factor"])
    assert_scores(factors[admitted], case["expected_clip_factors"][admitted])
    np.testing.assert_allclose(
        judged.scores["clip_bound"], case["expected_median_norm"], rtol=1e-5
    )
    assert_vector(result.update, case["expected_update"])
    assert_vector(case["global_params"] + result.update, case["expected_params"])

    judged, result = one_round(factory(features="updates"), cohort, context)
    np.testing.assert_array_equal(
        judged.weights > 0, case["expected_admitted_mask_update_feature"]
    )
    assert_vector(result.update, case["expected_update_update_feature"])

    admitted_only = pipeline(majority_component(), median_bound(), shorten_updates())
    _, result = one_round(admitted_only, cohort, context)
    assert_vector(result.update, case["expected_update_median_admitted_only"])


def check_fedredefense_fldetector(case: Case) -> None:
    """FLDetector: predictions, errors, the gap statistic and the two clusters."""
    window, cold_start = int(case["window"]), int(case["cold_start"])
    factory = partial(DEFENSES["fldetector"].factory, window=window)
    scored = case["scored_rounds"].tolist()

    # Without a detection, the predictions of all rounds.
    state = None
    for e, cohort, context in _history(case):
        if state is None:
            defense = factory(cold_start=10**6)
            state, aggregate = (
                defense.init(make_spec(cohort)),
                jax.jit(defense.aggregate),
            )
        if e in scored:
            row = scored.index(e)
            change = hessian_vector_product(
                state.steps,
                state.changes,
                state.num_pairs,
                context.global_params - state.last_params,
            )
            expected = -case["expected_hvp"][row]  # of gradients, that is of -updates
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(change, expected, rtol=1e-4, atol=atol)
            errors = prediction_errors(state, cohort, context.global_params)
            expected = case["expected_distances"][row]
            np.testing.assert_allclose(errors, expected, rtol=1e-4)
        state, *_ = aggregate(state, cohort, context)

    # Scored so late that the last rounds, of which the sums are, decide.
    assert scored[0] == cold_start + 1
    late = cold_start + len(scored) - window
    state = None
    for _, cohort, context in _history(case)[: scored[-1] + 1]:
        if state is None:
            defense = factory(cold_start=late)
            state, aggregate = (
                defense.init(make_spec(cohort)),
                jax.jit(defense.aggregate),
            )
        assert not state.detected
        state, *_ = aggregate(state, cohort, context)
    assert state.num_scored == window
    expected = case["expected_distances"][-window:]
    np.testing.assert_allclose(state.errors, expected, rtol=1e-4)
    votes = case["expected_attack_detected_votes"] != 0
    if votes.all() or not votes.any():
        assert state.detected == votes.all()

    scores = jnp.asarray(case["expected_score_sum"], jnp.float32)
    gap = gap_statistic(scores, jnp.asarray(case["gap_ref_uniform"], jnp.float32))
    np.testing.assert_allclose(gap.sums, case["expected_gap_W"], rtol=1e-3)
    np.testing.assert_allclose(gap.gap, case["expected_gap"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gap.deviation, case["expected_gap_sdk"], rtol=1e-3)
    assert gap.num_clusters == case["expected_gap_select_k"]
    np.testing.assert_array_equal(
        upper_cluster(scores), case["expected_malicious_mask"]
    )


def _history(case: Case) -> list[tuple[int, Cohort, RoundContext]]:
    rounds = []
    for e, updates in enumerate(case["updates_history"]):
        context = make_context(case["global_params_history"][e])
        context = context._replace(round=jnp.int32(e + 1))
        rounds.append((e, make_cohort(updates), context))
    return rounds


# --- family of LeadFL ------------------------------------------------------------


def _check_leadfl(case: Case, defense: Defense, count: int, update: str) -> None:
    judged, result = one_round(
        defense, make_cohort(case["updates"]), make_context(case["global_params"])
    )
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores"], rtol=1e-4, atol=2e-6
    )
    selected = case["expected_selected"][:count]
    np.testing.assert_array_equal(survivors(judged), np.sort(selected))
    np.testing.assert_allclose(result.update, case[update], rtol=1e-4, atol=2e-6)


def check_leadfl_krum(case: Case) -> None:
    """Krum with the number of neighbours that the LeadFL code fixes."""
    defense = DEFENSES["krum"].factory(num_neighbors=int(case["num_neighbors"]))
    _check_leadfl(case, defense, 1, "expected_update")


def check_leadfl_multikrum(case: Case) -> None:
    """Multi-Krum with the counts that the LeadFL code fixes."""
    count = int(case["num_selected"])
    defense = DEFENSES["multikrum"].factory(
        num_neighbors=int(case["num_neighbors"]), num_selected=count
    )
    _check_leadfl(case, defense, count, "expected_update")


def check_leadfl_multikrum_paper(case: Case) -> None:
    """Multi-Krum and Krum as published."""
    factory = DEFENSES["multikrum"].factory
    f, m = int(case["num_byzantine"]), int(case["num_selected"])
    defense = factory(num_byzantine=f, num_selected=m)
    _check_leadfl(case, defense, m, "expected_update")
    krum = DEFENSES["krum"].factory(num_byzantine=f)
    _check_leadfl(case, krum, 1, "expected_update_krum")


def assert_leadfl(actual: Array, expected: np.ndarray) -> None:
    """Compares with rtol 1e-4 and atol 2e-6."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-6)


def check_leadfl_bulyan_paper(case: Case) -> None:
    """Bulyan as published."""
    context = make_context(case["global_params"])
    defense = DEFENSES["bulyan"].factory(num_byzantine=int(case["num_byzantine"]))
    judged, result = one_round(defense, make_cohort(case["updates"]), context)
    place = np.asarray(judged.scores["place"])
    np.testing.assert_array_equal(
        place[case["expected_selected"]], range(len(survivors(judged)))
    )
    assert len(survivors(judged)) == case["theta"]
    chosen = judged.updates[np.sort(case["expected_selected"])]
    assert_leadfl(median(chosen, np.ones(len(chosen), bool)), case["expected_median"])
    assert_leadfl(result.update, case["expected_update"])

    coded = DEFENSES["bulyan"].factory(
        variant="ndss", num_byzantine=int(case["num_byzantine"])
    )
    judged, result = one_round(coded, make_cohort(case["updates"]), context)
    place = np.asarray(judged.scores["place"])
    wanted = case["expected_selected_selfdist"]
    np.testing.assert_array_equal(place[wanted], range(len(wanted)))
    assert_leadfl(result.update, case["expected_update_selfdist"])


def check_leadfl_bulyan_leadfl(case: Case) -> None:
    """What the LeadFL code calls Bulyan."""
    context = make_context(case["global_params"])
    defense = DEFENSES["bulyan_leadfl"].factory(
        num_neighbors=int(case["num_neighbors"]),
        rank_start=int(case["rank_start"]),
        rank_stop=int(case["rank_stop"]),
    )
    judged, result = one_round(defense, make_cohort(case["updates"]), context)
    assert_leadfl(judged.scores["krum_score"], case["expected_scores"])
    np.testing.assert_array_equal(survivors(judged), np.sort(case["expected_selected"]))
    assert_leadfl(result.update, case["expected_update"])


def check_leadfl_sparsefed(case: Case) -> None:
    """SparseFed over several rounds."""
    d = len(case["global_params"])
    clip_norm = float(case["clip_norm"])
    defense = DEFENSES["sparsefed"].factory(
        fraction=int(case["k"]) / d,
        momentum=float(case["momentum"]),
        clip_norm=clip_norm or None,
    )
    params, state = case["global_params"], None
    aggregate = jax.jit(defense.aggregate)
    for r, updates in enumerate(case["updates"]):
        cohort = make_cohort(updates)
        state = state or defense.init(make_spec(cohort))
        state, _, result = aggregate(state, cohort, make_context(params))
        params = params + result.update
        _, memory = state
        np.testing.assert_array_equal(result.update != 0, case["expected_support"][r])
        assert_leadfl(result.update, case["expected_update"][r])
        assert_leadfl(memory.error, case["expected_error"][r])
        assert_leadfl(memory.momentum, case["expected_momentum"][r])
        assert_leadfl(params, case["expected_params"][r])


def check_leadfl_prodigy(case: Case) -> None:
    """ProDiGy: both parts of the score, the weights and the aggregate."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    f = jnp.int32(case["num_byzantine"])
    every = jnp.ones(len(case["updates"]), bool)
    updates = cohort.updates
    scores = prodigy_scores(cohort, squared_distances(updates), gram(updates), every, f)
    expected = case["expected_dissimilarity"]
    np.testing.assert_allclose(scores.dissimilarity, expected, rtol=1e-3, atol=1e-3)
    assert_leadfl(scores.proximity, case["expected_proximity_sum"])

    defense = DEFENSES["prodigy"].factory(num_byzantine=int(f))
    judged, result = one_round(defense, cohort, context)
    assert_leadfl(judged.weights / judged.weights.sum(), case["expected_weights"])
    assert_leadfl(result.update, case["expected_update"])


def check_leadfl_dnc(case: Case) -> None:
    """DnC with given coordinates; scores of every iteration."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    every = jnp.ones(len(case["updates"]), bool)
    for chosen, expected in zip(
        case["param_idx"], case["expected_scores"], strict=True
    ):
        scores, unit = outlier_scores(cohort.updates[:, chosen], every)
        assert_leadfl(scores * unit**2, expected)
    removed = int(np.floor(case["filter_frac"] * case["num_byzantine"]))
    judged = keep_inliers(cohort, jnp.asarray(case["param_idx"]), removed)
    np.testing.assert_array_equal(survivors(judged), case["expected_selected"])
    result = weighted_mean()(judged, context)
    assert_leadfl(result.update, case["expected_update"])


def check_leadfl_crfl(case: Case) -> None:
    """CRFL: the clipped model of each round; the noise is given."""
    rho = case["rho"]
    defense = DEFENSES["crfl"].factory(
        clip_start=float(rho[0]),
        clip_slope=float(rho[1] - rho[0]) if len(rho) > 1 else 0.0,
        clip_cap=float(case["rho_cap"]),
        noise_sigma=float(case["sigma"]),
    )
    params = jnp.asarray(case["global_params"])
    for r, updates in enumerate(case["updates"]):
        cohort = make_cohort(updates)
        context = make_context(params)._replace(round=jnp.int32(r + 1))
        state = defense.init(make_spec(cohort))
        state, judged, result = defense.aggregate(state, cohort, context)
        model = GlobalModel(params + result.update, result.buffers)
        (_, noise), model = defense.after(state, model, judged, context)
        clipped = model.params - noise
        assert_leadfl(clipped, case["expected_clipped_params"][r])
        assert float(jnp.linalg.norm(clipped)) <= rho[r] * (1 + 1e-5)
        params = clipped + case["noise"][r]
        assert_leadfl(params, case["expected_params"][r])


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "drop_family": {
        "fedavg": check_drop_fedavg,
        "median": check_drop_median,
        "multikrum": check_drop_multikrum,
        "droplet": check_drop_droplet,
        "fltrust": check_drop_fltrust,
        "foolsgold": check_drop_foolsgold,
        "rlr": check_drop_rlr,
        "random_aggregation": check_drop_random_aggregation,
        "flame": check_drop_flame,
        "flare": check_drop_flare,
        "iqr_filter": check_drop_iqr_filter,
        "clipavg": check_drop_clipavg,
    },
    "fedredefense_family": {
        "fedavg": check_fedredefense_fedavg,
        "median": check_fedredefense_median,
        "krum": check_fedredefense_krum,
        "multi_krum": check_fedredefense_multi_krum,
        "trimmed_mean": check_fedredefense_trimmed_mean,
        "norm_bound": check_fedredefense_norm_bound,
        "fltrust": check_fedredefense_fltrust,
        "flame": check_fedredefense_flame,
        "fldetector": check_fedredefense_fldetector,
    },
    "leadfl_family": {
        "multikrum_paper": check_leadfl_multikrum_paper,
        "multikrum_leadfl": check_leadfl_multikrum,
        "krum_leadfl": check_leadfl_krum,
        "bulyan_paper": check_leadfl_bulyan_paper,
        "bulyan_leadfl": check_leadfl_bulyan_leadfl,
        "sparsefed": check_leadfl_sparsefed,
        "prodigy": check_leadfl_prodigy,
        "dnc": check_leadfl_dnc,
        "crfl": check_leadfl_crfl,
    },
}
