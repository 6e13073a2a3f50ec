"""Hostile updates for every server rule: the model stays finite, order means nothing.

Each trial draws a rule, a few rounds, and for every client what it sends: ordinary
updates, huge and tiny ones, zeros, NaN, infinities, copies of another's, numbers below
the smallest normal one.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from campaign import carry_out, require
from defenses.test_contract import EXAMPLES, make_defense, make_trial_of

from fedjax_sim.contracts.defense import Cohort
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.testing.claims import claim_finite
from fedjax_sim.testing.defense_trial import Trial, surviving_ids, take

NAMES = sorted(DEFENSES.keys() - {"drop"})  # DROplet's judgement; the rest needs images
ROUNDS = 3


@functools.cache
def federation(name: str, index: int) -> Trial:
    """A rule in a federation; compiled once."""
    return make_trial_of(name, make_defense(name, index))


def hostile(rows: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """What clients send in place of f32 [n, d]; each draws a kind of its own."""
    sent = rows.copy()
    kinds = ["as it is", "huge", "tiny", "zero", "one bad", "all bad", "copy", "flip"]
    for i in range(len(rows)):
        kind = draws.choice(kinds, p=[0.4, 0.15, 0.1, 0.05, 0.1, 0.05, 0.1, 0.05])
        if kind == "huge":
            sent[i] = draws.choice([-1.0, 1.0], rows.shape[1]) * draws.uniform(0.1, 1)
            sent[i] *= np.float32(10.0 ** draws.uniform(3, 38.4))
        elif kind == "tiny":
            sent[i] *= np.float32(10.0 ** -draws.uniform(3, 42))
        elif kind == "zero":
            sent[i] = 0.0
        elif kind == "one bad":
            sent[i, draws.integers(rows.shape[1])] = draws.choice(
                [np.nan, np.inf, -np.inf]
            )
        elif kind == "all bad":
            sent[i] = draws.choice([np.nan, np.inf, -np.inf])
        elif kind == "copy":
            sent[i] = sent[draws.integers(len(rows))]
        elif kind == "flip":
            sent[i] = -rows.mean(0)
    return sent


def trial(number: int, draws: np.random.Generator) -> None:
    """Some rounds of one rule."""
    name = NAMES[number % len(NAMES)]
    index = int(draws.integers(len(EXAMPLES.get(name, [{}]))))
    rule = federation(name, index)
    state, *_ = rule.start()
    for _ in range(ROUNDS):
        _, cohort, context = rule.start(seed=int(draws.integers(2**31)))
        with np.errstate(over="ignore", under="ignore"):
            sent = hostile(np.array(cohort.updates), draws)
        cohort = cohort._replace(updates=jnp.asarray(sent))
        out = jnp.asarray(draws.random(rule.n) < 0.1)  # empty places
        cohort = cohort._replace(weights=jnp.where(out, 0.0, cohort.weights))
        state = one_round(rule, state, cohort, context, draws)


def one_round(rule: Trial, state, cohort: Cohort, context, draws):
    """Looks at a round, and at the same round in another order; returns the state."""
    after, judged, _, model = rule.jitted(state, cohort, context)
    for what, tree in (("model", model), ("state", after)):
        claim_finite(tree, rule.name, f"the {what} is not finite")
    weights = np.asarray(judged.weights)
    require(np.isfinite(weights).all() and (weights >= 0).all(), f"weights {weights}")
    bad = ~np.isfinite(np.asarray(cohort.updates)).all(1)
    require(not weights[bad].any(), f"{rule.name}: NaN or Inf has weight {weights}")
    absent = np.asarray(cohort.weights) == 0
    require(not weights[absent].any(), f"{rule.name}: an absent client has weight")
    order = draws.permutation(rule.n)
    moved = context._replace(malicious=context.malicious[order])
    _, judged2, _, model2 = rule.jitted(state, take(cohort, order), moved)
    kept, kept2 = surviving_ids(judged), surviving_ids(judged2)
    require(kept == kept2, f"{rule.name}: the order matters, {kept} and {kept2}")
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(model2), strict=True):
        gap = np.abs(np.asarray(a, float) - np.asarray(b, float)).max(initial=0.0)
        require(gap == 0, f"{rule.name}: the order moves the model by {gap:.3g}")
    return after


if __name__ == "__main__":
    sys.exit(carry_out("cohorts", trial, sys.argv[1:], trials=1000, minutes=10))
