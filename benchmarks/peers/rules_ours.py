"""The same rules here: for values, and as they run in a round."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.contracts.defense import Cohort, Defense
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.defenses.parts.before import stages_before
from fedjax_sim.stages import STAGES
from fedjax_sim.testing.defense_trial import make_cohort, make_context, make_spec

# Of a row of the table: rule, options, stage in front and its options; f is `FILL`.
FILL = "f"
OURS: dict[str, tuple[str, dict[str, Any], str | None, dict[str, Any]]] = {
    "mean": ("fedavg", {}, None, {}),
    "median": ("median", {}, None, {}),
    "trimmed_mean": ("trimmed_mean", {"num_byzantine": FILL}, None, {}),
    "krum": ("krum", {"num_byzantine": FILL}, None, {}),
    "multikrum": ("multikrum", {"num_byzantine": FILL}, None, {}),
    "bulyan": ("bulyan", {"num_byzantine": FILL}, None, {}),
    "geometric_median": ("geometric_median", {}, None, {}),
    "centered_clipping": ("centered_clipping", {"tau": 10.0}, None, {}),
    "meamed": ("meamed", {"num_byzantine": FILL}, None, {}),
    "monna": ("monna", {"reference": "client", "num_byzantine": FILL}, None, {}),
    "mda": ("mda", {"num_byzantine": FILL}, None, {}),
    "smea": ("smea", {"num_byzantine": FILL}, None, {}),
    "caf": ("caf", {"num_byzantine": FILL}, None, {}),
    "nnm + mean": ("fedavg", {}, "nnm", {"num_byzantine": FILL}),
    "arc + mean": ("fedavg", {}, "arc", {"num_byzantine": FILL}),
    "clipping + mean": ("fedavg", {}, "clipping", {"norm": 2.0}),
}


def make(row: str, f: int) -> Defense:
    """The defence of a row of the table."""
    name, options, before, own = OURS[row]
    fill = lambda given: {k: f if v is FILL else v for k, v in given.items()}
    rule = DEFENSES[name].factory(**fill(options))
    if before is None:
        return rule
    return stages_before(name, {before: STAGES[before].factory(**fill(own))}, rule)


def value(row: str, rows: np.ndarray, f: int) -> np.ndarray:
    """What the rule makes of rows f32 [n, d]."""
    return np.asarray(_program(row, f, *rows.shape)(rows), np.float64)


@cache
def _program(row: str, f: int, n: int, d: int) -> Callable[[np.ndarray], jax.Array]:
    defense = make(row, f)
    state = jax.tree.map(jnp.asarray, defense.init(make_spec(n, n, f, num_params=d)))
    context = make_context(d)

    def run(rows):
        return defense.aggregate(state, make_cohort(rows), context)[2].update

    return jax.jit(run)


def timed(row: str, rows: np.ndarray, f: int) -> Callable[[], float]:
    """Returns a function that takes the seconds of one call.

    As in a round the updates belong to the rule, which hands them on.
    """
    defense, (n, d) = make(row, f), rows.shape
    spec = make_spec(n, n, f, num_params=d)
    state = jax.tree.map(jnp.asarray, defense.init(spec))
    cohort, context = make_cohort(np.zeros((n, 1), np.float32)), make_context(d)

    def run(updates, state) -> tuple[jax.Array, Any, jax.Array]:
        own: Cohort = cohort._replace(updates=updates)
        state, judged, result = defense.aggregate(state, own, context)
        return judged.updates, state, result.update

    program = jax.jit(run, donate_argnums=0)
    held = jnp.array(rows), state

    def once() -> float:
        nonlocal held
        begun = time.perf_counter()
        updates, state, _ = jax.block_until_ready(program(*held))
        seconds = time.perf_counter() - begun
        held = updates, state
        return seconds

    once()  # compiles
    return once
