"""What every server rule must do, check by check; see `contracts.defense`."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.errors import InputError
from fedjax_sim.testing.claims import claim, claim_close, claim_finite, shapes
from fedjax_sim.testing.defense_trial import Trial, stack, surviving_ids, take
from fedjax_sim.testing.quick_jit import quick_jit

JUNK = (1e30, -1e30, np.nan, np.inf)


def state_keeps_its_shapes(trial: Trial) -> None:
    """A checkpoint, and a loop on the device, need it."""
    before, cohort, context = trial.start()
    after, judged, result, _ = jax.eval_shape(trial.step, before, cohort, context)
    before, after = shapes(before), shapes(after)
    broken = f"the state changes in a round, from {before} to {after}"
    claim(before == after, trial.name, broken)
    sizes = result.update.shape, result.buffers.shape
    expected = context.global_params.shape, context.global_buffers.shape
    claim(sizes == expected, trial.name, f"aggregates to {sizes}, not {expected}")
    claim("non_finite" in judged.scores, trial.name, "reports no score 'non_finite'")


def order_does_not_matter(trial: Trial) -> None:
    """The places of the clients in the cohort mean nothing."""
    state, cohort, context = trial.start()
    order = np.random.default_rng(1).permutation(trial.n)
    state1, cohort1, _, model1 = trial.jitted(state, cohort, context)
    moved = context._replace(malicious=context.malicious[order])
    state2, cohort2, _, model2 = trial.jitted(state, take(cohort, order), moved)
    broken = "the order of the clients matters"
    claim(surviving_ids(cohort1) == surviving_ids(cohort2), trial.name, broken)
    claim_close(trial.name, broken, model=(model1, model2), state=(state1, state2))


def excluded_clients_have_no_influence(trial: Trial, junk: float) -> None:
    """Whatever a client of weight 0 sends."""
    state, cohort, context = trial.start()
    rows = jnp.array([2, 5])
    cohort = cohort._replace(weights=cohort.weights.at[rows].set(0.0))
    dirty = cohort._replace(
        updates=cohort.updates.at[rows].set(junk),
        buffers=cohort.buffers.at[rows].set(junk),
    )
    state1, cohort1, _, model1 = trial.jitted(state, cohort, context)
    state2, cohort2, _, model2 = trial.jitted(state, dirty, context)
    name, broken = trial.name, f"clients of weight 0 that send {junk} have influence"
    claim(surviving_ids(cohort1) == surviving_ids(cohort2), name, broken)
    back = np.asarray(cohort2.weights)[rows].any()
    claim(not back, name, "gives clients of weight 0 a weight again")
    found = np.asarray(cohort2.scores["non_finite"])[rows].any()
    claim(not found, name, "reports absent clients as non-finite")
    claim_close(name, broken, model=(model1, model2), state=(state1, state2))


def excluded_clients_are_as_good_as_absent(trial: Trial) -> None:
    """A cohort with a client of weight 0 is one without it."""
    state, cohort, context = trial.start()
    present = np.flatnonzero(np.arange(trial.n) != 4)
    out = cohort._replace(weights=cohort.weights.at[4].set(0.0))
    state1, cohort1, _, model1 = trial.jitted(state, out, context)
    fewer = context._replace(malicious=context.malicious[present])
    state2, cohort2, _, model2 = trial.jitted(state, take(cohort, present), fewer)
    broken = "a client of weight 0 is not as good as absent: it has influence"
    claim(surviving_ids(cohort1) == surviving_ids(cohort2), trial.name, broken)
    claim_close(trial.name, broken, model=(model1, model2), state=(state1, state2))


def non_finite_clients_are_reported(trial: Trial) -> None:
    """They are reported, and as good as excluded."""
    state, cohort, context = trial.start()
    rows = jnp.array([0, 3, 7])
    dirty = cohort._replace(
        updates=cohort.updates.at[0, 1].set(jnp.nan).at[3, 2].set(jnp.inf)
    )
    if cohort.buffers.size:
        dirty = dirty._replace(buffers=cohort.buffers.at[7, 0].set(-jnp.inf))
    else:
        dirty = dirty._replace(updates=dirty.updates.at[7, 0].set(-jnp.inf))
    without = cohort._replace(weights=cohort.weights.at[rows].set(0.0))
    _, cohort1, _, model1 = trial.jitted(state, dirty, context)
    _, cohort2, _, model2 = trial.jitted(state, without, context)
    found = np.flatnonzero(cohort1.scores["non_finite"]).tolist()
    broken = f"of the clients [0, 3, 7] with a NaN or Inf it reports {found}"
    claim(found == [0, 3, 7], trial.name, broken)
    broken = "clients with a NaN or Inf have influence"
    claim(surviving_ids(cohort1) == surviving_ids(cohort2), trial.name, broken)
    claim_close(trial.name, broken, model=(model1, model2))
    claim_finite(model1, trial.name, broken)


def no_survivors_keep_the_model(trial: Trial, reason: str) -> None:
    """Nobody is there (`absent`), or all send NaN (`non_finite`)."""
    state, cohort, context = trial.start()
    if reason == "absent":
        cohort = cohort._replace(weights=jnp.zeros(trial.n))
    else:
        cohort = cohort._replace(updates=jnp.full_like(cohort.updates, jnp.nan))
    state, judged, result, model = trial.jitted(state, cohort, context)
    claim(not surviving_ids(judged), trial.name, f"somebody survives: all {reason}")
    broken = f"a round without survivors ({reason}) moves the model"
    claim(not np.asarray(result.update).any(), trial.name, broken)
    old = (context.global_params, context.global_buffers)
    for now, before in zip(model, old, strict=True):
        claim(np.array_equal(now, before), trial.name, broken)
    broken = f"a round without survivors ({reason}) leaves a state that is not finite"
    claim_finite(state, trial.name, broken)


def small_cohorts_work_or_are_refused(trial: Trial, n: int) -> None:
    """By an InputError that names a key of the config."""
    try:
        state, cohort, context = trial.start(n=n)
    except InputError as error:
        one = str(error).startswith("config.") and "\n" not in str(error)
        broken = f"refuses {n} clients by no line 'config.KEY ...': {str(error)!r}"
        claim(one, trial.name, broken)
        return
    *_, model = quick_jit(trial.step)(state, cohort, context)
    broken = f"a cohort of {n} gives a model that is not finite"
    claim_finite(model, trial.name, broken)


def rounds_scan_and_seeds_vmap(trial: Trial) -> None:
    """Three rounds of two seeds at once are those of each alone."""
    first, *_ = trial.start()
    rounds, seeds = range(3), range(2)
    inputs = [[trial.start(seed=10 * s + r)[1:] for s in seeds] for r in rounds]

    def one_round(state, inputs):
        state, cohort, _, model = trial.step(state, *inputs)
        return state, (cohort.weights, model)

    def run(inputs):
        return jax.lax.scan(one_round, first, inputs)

    stacked = stack([stack(row) for row in inputs])
    finals, outputs = quick_jit(jax.vmap(run, in_axes=1))(stacked)
    broken = "rounds in a loop, of several seeds at once, differ from each alone"
    for s in seeds:
        alone = first
        for r in rounds:
            alone, cohort, _, model = trial.jitted(alone, *inputs[r][s])
            together = jax.tree.map(lambda x, r=r, s=s: x[s, r], outputs)
            both = ((cohort.weights, model), together)
            claim_close(trial.name, broken, weights_and_model=both)
        own = jax.tree.map(lambda x, s=s: x[s], finals)
        claim_close(trial.name, broken, state=(alone, own))


def models_without_buffers_work(trial: Trial, n: int | None = None) -> None:
    """Models without running statistics: b = 0. `n` clients, or the trial's."""
    state, cohort, context = trial.start(n=n, buffers=0)
    *_, result, model = quick_jit(trial.step)(state, cohort, context)
    got = result.buffers.shape, model.buffers.shape
    broken = f"a model without buffers gets some: {got}"
    claim(got == ((0,), (0,)), trial.name, broken)
    broken = "a model without buffers becomes not finite"
    claim_finite(model.params, trial.name, broken)


def eligibility_is_a_mask_of_the_population(trial: Trial) -> None:
    """Everybody at first; a round may ban none but those who took part."""
    state, cohort, context = trial.start()
    eligible = trial.defense.eligible
    assert eligible is not None
    everybody = np.asarray(eligible(state))
    shape, dtype = everybody.shape, everybody.dtype
    broken = f"eligible gives {dtype}{list(shape)}, not bool[{trial.population}]"
    right = shape == (trial.population,) and dtype == np.bool_
    claim(right, trial.name, broken)
    claim(everybody.all(), trial.name, "bans clients before the first round")
    state, *_ = trial.jitted(state, cohort, context)
    after = np.asarray(eligible(state))
    claim(after.shape == shape and after.dtype == np.bool_, trial.name, broken)
    banned = set(np.flatnonzero(~after).tolist())
    took_part = set(np.asarray(cohort.client_ids).tolist())
    claim(banned <= took_part, trial.name, "bans clients that took no part")
