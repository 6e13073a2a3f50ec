"""Golden vectors of the defences: how each stored case is put to our functions.

A check takes the arrays of one file and raises AssertionError. `ADAPTERS` maps a
family (directory) and a case (file name up to "__", or without its trailing number)
to its check. The tolerances are those of the families' README files.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.base import (
    Aggregate,
    Cohort,
    Defense,
    FederationSpec,
    Reduce,
    RoundContext,
    coordinatewise,
    exclude,
    weighted_mean,
)
from fedjax_sim.flat import flat_layout
from fedjax_sim.order_statistics import median

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
        updates=jnp.asarray(updates, jnp.float32),
        buffers=jnp.asarray(np.zeros((n, 0)) if buffers is None else buffers, "f4"),
        weights=jnp.ones(n),
        client_ids=jnp.arange(n) if ids is None else jnp.asarray(ids, jnp.int32),
        num_examples=jnp.full(n, 100),
        scores={},
    )


def make_context(params: Array, buffers: Array | None = None) -> RoundContext:
    """Returns the context of round 1 with the given global model."""
    return RoundContext(
        round=jnp.int32(1),
        key=jax.random.key(0),
        global_params=jnp.asarray(params, jnp.float32),
        global_buffers=jnp.zeros(0) if buffers is None else jnp.asarray(buffers, "f4"),
    )


def make_spec(cohort: Cohort, population: int | None = None) -> FederationSpec:
    """Returns the facts of a federation that sends `cohort`, nobody malicious."""
    n, d = cohort.updates.shape
    return FederationSpec(
        population=population or n,
        cohort_size=n,
        num_malicious=0,
        layout=flat_layout({"w": jnp.zeros(d)}),
        num_buffers=cohort.buffers.shape[1],
    )


def one_round(
    defense: Defense, cohort: Cohort, context: RoundContext
) -> tuple[Cohort, Aggregate]:
    """Returns the judged cohort and the aggregate of a first round."""
    _, cohort, result = jax.jit(defense.aggregate)(
        defense.init(make_spec(cohort)), cohort, context
    )
    return cohort, result


def survivors(cohort: Cohort) -> np.ndarray:
    """Returns the rows that still count."""
    return np.flatnonzero(np.asarray(cohort.weights) > 0)


# --- family of DROP --------------------------------------------------------------


def assert_params(actual: Array, expected: np.ndarray) -> None:
    """Compares parameters with |a - b| <= 2e-5 (1 + |b|)."""
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


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
    krum = factory(num_byzantine=f, num_selected=1)
    judged, _ = one_round(krum, cohort, context)
    assert survivors(judged).tolist() == [case["paper_krum_index"]]


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

        np.testing.assert_array_equal(
            cohort.scores["ward_label"], case["expected_labels"][r]
        )
        np.testing.assert_array_equal(
            cohort.scores["suspicious"], case["expected_suspicious"][r]
        )
        np.testing.assert_array_equal(
            cohort.weights > 0, case["expected_survivors"][r].astype(bool)
        )
        (_, activity), _ = state
        np.testing.assert_array_equal(activity.penalties, case["expected_penalties"][r])
        assert (not survivors(cohort).size) == case["expected_round_skipped"][r]
        assert_params(params, case["expected_global"][r])
        assert_params(buffers, case["expected_buffers"][r])


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
    """Multi-Krum in one shot; the iterative form through its first selection."""
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

    # The iterative form: Krum again and again on the clients that are left.
    chosen: list[int] = []
    while len(chosen) < len(case["expected_iterative_indices"]):
        taken = jnp.isin(cohort.client_ids, jnp.asarray(chosen, jnp.int32))
        judged, _ = one_round(single, exclude(cohort, taken), context)
        chosen += survivors(judged).tolist()
    np.testing.assert_array_equal(chosen, case["expected_iterative_indices"])


def check_fedredefense_krum(case: Case) -> None:
    """Krum as released (Euclidean), and with squared distances."""
    cohort, context = make_cohort(case["updates"]), make_context(case["global_params"])
    factory = DEFENSES["multikrum"].factory
    coded = factory(
        variant="authors",
        num_neighbors=int(case["coded_num_neighbours"]),
        num_selected=1,
    )
    judged, result = one_round(coded, cohort, context)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores"], rtol=1e-3
    )
    (index,) = survivors(judged)
    assert case["expected_acceptable_index_mask"][index]
    np.testing.assert_allclose(result.update, case["updates"][index], rtol=1e-6)

    original = factory(num_neighbors=int(case["paper_num_neighbours"]), num_selected=1)
    judged, _ = one_round(original, cohort, context)
    np.testing.assert_allclose(
        judged.scores["krum_score"], case["expected_scores_squared"], rtol=1e-3
    )
    (index,) = survivors(judged)
    scores = case["expected_scores_squared"]
    np.testing.assert_allclose(scores[index], scores.min(), rtol=1e-5)


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


def check_leadfl_constants(case: Case) -> None:
    """Krum and Multi-Krum with the counts that the LeadFL code fixes."""
    count = len(case["expected_selected"])
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
    krum = factory(num_byzantine=f, num_selected=1)
    _check_leadfl(case, krum, 1, "expected_update_krum")


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "drop_family": {
        "fedavg": check_drop_fedavg,
        "median": check_drop_median,
        "multikrum": check_drop_multikrum,
        "droplet": check_drop_droplet,
    },
    "fedredefense_family": {
        "fedavg": check_fedredefense_fedavg,
        "median": check_fedredefense_median,
        "krum": check_fedredefense_krum,
        "multi_krum": check_fedredefense_multi_krum,
    },
    "leadfl_family": {
        "multikrum_paper": check_leadfl_multikrum_paper,
        "multikrum_leadfl": check_leadfl_constants,
        "krum_leadfl": check_leadfl_constants,
    },
}
