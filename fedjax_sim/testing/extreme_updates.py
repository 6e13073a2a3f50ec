"""What every server rule must do with updates that are equal, or huge."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.defense import Cohort
from fedjax_sim.testing.claims import claim, claim_close, claim_finite
from fedjax_sim.testing.defense_trial import Trial, surviving_ids, take

COPIES = (2, 5, 9)
SIGNS = ("constant", "signs")
SIZES = ([1e3], [3e38], [1e19, 1e25, 1e31], [1e38, 1e38, 1e38], [3e38, 1e20, -1e38])


def huge_updates_keep_the_model_finite(trial: Trial) -> None:
    """Two clients send 1e30 times their update."""
    state, cohort, context = trial.start()
    cohort = cohort._replace(updates=cohort.updates.at[:2].mul(1e30))
    *_, model = trial.jitted(state, cohort, context)
    claim_finite(model, trial.name, "updates of 1e30 give a model that is not finite")


def identical_updates_stay_finite(
    trial: Trial, copies: int, means: bool = False
) -> None:
    """So many clients send the same; with `means`, all of them: that is the result."""
    state, cohort, context = trial.start()
    cohort = cohort._replace(
        updates=cohort.updates.at[:copies].set(cohort.updates[:1]),
        buffers=cohort.buffers.at[:copies].set(cohort.buffers[:1]),
    )
    _, _, result, model = trial.jitted(state, cohort, context)
    broken = f"{copies} equal updates give a model that is not finite"
    claim_finite(model, trial.name, broken)
    if means and copies == trial.n:
        common = (cohort.updates[0], cohort.buffers[0])
        broken = "all clients send the same, but something else comes out"
        claim_close(trial.name, broken, aggregate=(tuple(result), common))


def finite_updates_give_finite_models(
    trial: Trial, signs: str, sizes: Sequence[float]
) -> None:
    """Attackers send updates of any finite size, and still nobody's place matters."""
    state, cohort, context = trial.start()
    cohort = hostile(cohort, np.arange(len(sizes)), sizes, signs)
    context = context._replace(malicious=jnp.arange(trial.n) < len(sizes))
    state1, cohort1, result1, model1 = trial.jitted(state, cohort, context)
    broken = f"updates of {sizes} ({signs}) give numbers that are not finite"
    claim_finite((state1, result1, model1), trial.name, broken)
    order = np.random.default_rng(1).permutation(trial.n)
    moved = context._replace(malicious=context.malicious[order])
    state2, cohort2, _, model2 = trial.jitted(state, take(cohort, order), moved)
    broken = f"with updates of {sizes} ({signs}) the order of the clients matters"
    claim(surviving_ids(cohort1) == surviving_ids(cohort2), trial.name, broken)
    # Sums of huge numbers of both signs leave rounding errors of the huge ones.
    after1, after2 = (jax.tree.leaves(x) for x in ((state1, model1), (state2, model2)))
    for a, b in zip(after1, after2, strict=True):
        largest = np.abs(np.asarray(b, float)).max(initial=0.0)
        pair = np.asarray(a, float), np.asarray(b, float)
        claim_close(trial.name, broken, atol=1e-5 * largest, state_or_model=pair)


def largest_numbers_stay_finite(trial: Trial) -> None:
    """All clients send the largest number of float32."""
    state, cohort, context = trial.start()
    largest = jnp.full_like(cohort.updates, np.finfo(np.float32).max)
    broken = "the largest updates of float32 give a model that is not finite"
    for updates in (largest, -largest, largest.at[::2].mul(-1)):
        sent = cohort._replace(updates=updates)
        *_, result, model = trial.jitted(state, sent, context)
        claim_finite((result, model), trial.name, broken)


def hostile(
    cohort: Cohort, rows: np.ndarray, sizes: Sequence[float], signs: str
) -> Cohort:
    """Lets `rows` send entries of +-size: all positive, or of random signs."""
    d = cohort.updates.shape[1]
    chosen = np.random.default_rng(5).choice([-1.0, 1.0], (len(rows), d))
    chosen = np.ones_like(chosen) if signs == "constant" else chosen
    sent = chosen * np.reshape(sizes, (-1, 1))
    return cohort._replace(updates=cohort.updates.at[rows].set(sent.astype("f4")))
