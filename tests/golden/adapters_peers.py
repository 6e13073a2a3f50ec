"""Golden vectors of the rules and attacks that peer packages have.

A check takes the arrays of one file and raises AssertionError. `ADAPTERS` maps the
family (directory) and a case (file name up to "__") to its check. The tolerances are
those of README.md.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from adapters_defenses import make_cohort, make_context, make_spec, survivors
from jax import Array

from fedjax_sim.contracts.defense import Aggregate, Cohort, Defense
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.caf import filter_outliers
from fedjax_sim.defenses.parts.clipping import clip_factors, shorten
from fedjax_sim.defenses.weak_dp import noisy_mean
from fedjax_sim.numerics.distances import row_lengths
from fedjax_sim.numerics.order_statistics import median

Case = dict[str, np.ndarray]


def assert_params(actual: Array, expected: np.ndarray, rtol: float = 2e-5) -> None:
    """Compares parameters and updates with |a - b| <= rtol (1 + |b|)."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def assert_scores(actual: Array, expected: np.ndarray, rtol: float = 1e-4) -> None:
    """Compares scores and distances."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


def one_round(
    defense: Defense,
    updates: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    state=None,
    **context,
) -> tuple[object, Cohort, Aggregate]:
    """Returns the state, the judged cohort and the aggregate of a round."""
    cohort = make_cohort(updates)
    if weights is not None:
        cohort = cohort._replace(weights=jnp.asarray(weights, jnp.float32))
    known = make_context(np.zeros(updates.shape[1]))._replace(**context)
    if state is None:
        state = defense.init(make_spec(cohort))
    judged = jax.jit(lambda state, cohort: defense.aggregate(state, cohort, known))
    return jax.tree.map(np.asarray, judged(state, cohort))


# --- means of what is near -------------------------------------------------------


def check_geometric_median(case: Case) -> None:
    """As published, as released, and as two peers have it."""
    make, updates = DEFENSES["geometric_median"].factory, case["updates"]
    published = make(nu=float(case["nu"]), iterations=int(case["iterations"]))
    _, judged, result = one_round(published, updates, weights=case["weights"])
    assert_params(result.update, case["paper_update"])
    np.testing.assert_allclose(judged.scores["weiszfeld_weight"].sum(), 1.0, rtol=1e-5)
    for variant in ("release", "byzfl", "flpoison"):
        *_, result = one_round(make(variant=variant), updates, weights=case["weights"])
        assert_params(result.update, case[f"{variant}_update"])


def check_centered_clipping(case: Case) -> None:
    """The aggregates of all rounds, each the start of the next."""
    defense = DEFENSES["centered_clipping"].factory(
        tau=float(case["tau"]), iterations=int(case["iterations"])
    )
    state = None
    for updates, expected in zip(case["updates"], case["expected_update"], strict=True):
        state, _, result = one_round(defense, updates, state=state)
        assert_params(result.update, expected)


def check_meamed(case: Case) -> None:
    """Also what the peer returns, where no values tie for a place."""
    defense = DEFENSES["meamed"].factory(num_byzantine=int(case["f"]))
    *_, result = one_round(defense, case["updates"])
    assert_params(result.update, case["expected_update"])
    clear = ~case["tie_mask"].astype(bool)
    assert_params(result.update[clear], case["byzfl_update"][clear])
    updates = jnp.asarray(case["updates"])
    assert_params(median(updates, jnp.ones(len(updates), bool)), case["median"])


def check_monna(case: Case) -> None:
    """With a client that is trusted."""
    defense = DEFENSES["monna"].factory(
        reference="client",
        num_byzantine=int(case["f"]),
        reference_client=int(case["reference_row"]),
    )
    _, judged, result = one_round(defense, case["updates"])
    np.testing.assert_array_equal(survivors(judged), np.sort(case["selected"]))
    assert_params(result.update, case["expected_update"])


def check_mda(case: Case) -> None:
    defense = DEFENSES["mda"].factory(num_byzantine=int(case["f"]))
    _, judged, result = one_round(defense, case["updates"])
    np.testing.assert_array_equal(survivors(judged), case["selected"])
    assert_params(result.update, case["expected_update"])
    assert_scores(judged.scores["diameter"], case["diameter"])


def check_smea(case: Case) -> None:
    defense = DEFENSES["smea"].factory(num_byzantine=int(case["f"]))
    _, judged, result = one_round(defense, case["updates"])
    np.testing.assert_array_equal(survivors(judged), case["selected"])
    assert_params(result.update, case["expected_update"])
    assert_scores(judged.scores["largest_eigenvalue"], case["largest_eigenvalue"])


_EXACT_STEPS = 20


def check_caf(case: Case) -> None:
    """The filter with either largest tau, and with one power step of given vectors."""
    updates, f = make_cohort(case["updates"]), int(case["f"])
    drawn = jnp.asarray(case["start_vectors"], jnp.float32)
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
            np.testing.assert_allclose(found.last, case[f"{name}_weights"], 1e-3, 1e-3)
        if 0 < len(steps) <= _EXACT_STEPS:
            assert found.best_step == best, name
            np.testing.assert_allclose(found.eigenvalue, steps[best], 1e-3, 1e-9)
        weights = found.best / found.best.sum()
        assert_params(weights @ updates.updates, case[f"{name}_update"], 1e-3)
    defense = DEFENSES["caf"].factory(num_byzantine=f)
    *_, result = one_round(defense, case["updates"])
    assert_params(result.update, case["active_update"], 1e-3)


@cache
def _caf(variant: str) -> Callable:
    return jax.jit(
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


ADAPTERS: dict[str, dict[str, Callable[[Case], None]]] = {
    "peers_family": {
        "caf": check_caf,
        "centered_clipping": check_centered_clipping,
        "geometric_median": check_geometric_median,
        "mda": check_mda,
        "meamed": check_meamed,
        "monna": check_monna,
        "smea": check_smea,
        "weak_dp": check_weak_dp,
    },
}
