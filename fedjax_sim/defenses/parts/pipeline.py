"""How stages, a reduction and a step afterwards become a defence."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    After,
    Aggregate,
    Cohort,
    Defense,
    Reduce,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.defenses.parts.client_order import (
    after_in_client_order,
    in_client_order,
)
from fedjax_sim.defenses.parts.reductions import weighted_mean

PyTree = Any


def pipeline(
    *stages: Stage,
    reduce: Reduce | None = None,
    after: After | None = None,
    **changes: Any,
) -> Defense:
    """Composes stages, a reduction and a step afterwards into a defence.

    Args:
      *stages: applied in order to the cohort of finite updates, by ascending ids.
      reduce: turns the cohort into one update; `weighted_mean()` by default.
      after: acts on the new global model.
      **changes: the optional fields of `Defense`. Those that take a state are given
        that of the pipeline: `(stage states, after state)`.
    """
    reduce = reduce or weighted_mean()

    def init(spec: FederationSpec) -> PyTree:
        return (
            tuple(stage.init(spec) for stage in stages),
            after.init(spec) if after else (),
        )

    @in_client_order
    def aggregate(state, cohort, context):
        stage_states, after_state = state
        cohort = exclude_non_finite(cohort, context)
        new_states = []
        for stage, stage_state in zip(stages, stage_states, strict=True):
            stage_state, cohort = stage.apply(stage_state, cohort, context)
            new_states.append(stage_state)
        survived = included(cohort).any()
        # With no survivor the reduction may divide by zero; its result is dropped.
        result = reduce(cohort, context)
        result = Aggregate(
            update=jnp.where(survived, result.update, 0.0),
            buffers=jnp.where(survived, result.buffers, context.global_buffers),
        )
        return (tuple(new_states), after_state), cohort, result

    @after_in_client_order
    def apply_after(state, model, cohort, context):
        if after is None:
            return state, model
        stage_states, after_state = state
        after_state, model = jax.lax.cond(
            included(cohort).any(),
            lambda: after.apply(after_state, model, cohort, context),
            lambda: (after_state, model),
        )
        return (stage_states, after_state), model

    return Defense(init, aggregate, apply_after, **changes)


def in_turn(*stages: Stage) -> Stage:
    """Returns several stages as one; its state is a tuple of theirs."""

    def init(spec: FederationSpec) -> tuple[PyTree, ...]:
        return tuple(stage.init(spec) for stage in stages)

    def apply(state, cohort: Cohort, context: RoundContext):
        states = []
        for stage, own in zip(stages, state, strict=True):
            own, cohort = stage.apply(own, cohort, context)
            states.append(own)
        return tuple(states), cohort

    return Stage(init, apply)


def filtered(stage: Stage, defense: Defense, **changes: Any) -> Defense:
    """Puts a stage in front of a whole defence.

    Args:
      stage: sees the cohort of finite updates first.
      defense: judges and aggregates the clients that remain.
      **changes: optional fields of `Defense`. Those that take a state are given
        `(stage state, state of the defence)`.
    """

    def init(spec):
        return stage.init(spec), defense.init(spec)

    @in_client_order
    def aggregate(state, cohort, context):
        stage_state, defense_state = state
        cohort = exclude_non_finite(cohort, context)
        stage_state, cohort = stage.apply(stage_state, cohort, context)
        defense_state, cohort, result = defense.aggregate(
            defense_state, cohort, context
        )
        return (stage_state, defense_state), cohort, result

    def after(state, model, cohort, context):
        stage_state, defense_state = state
        defense_state, model = defense.after(defense_state, model, cohort, context)
        return (stage_state, defense_state), model

    return Defense(init, aggregate, after, **changes)


def exclude_non_finite(cohort: Cohort, context: RoundContext) -> Cohort:
    """Excludes clients whose update or buffers hold a NaN or Inf.

    Only clients that took part are reported as non-finite.
    Their rows are replaced by zeros (the global buffers), so that no later
    arithmetic such as 0 * NaN can bring them back. The rows are written in place: in
    the usual round, without such a client, the updates are read once and not copied.
    """
    finite = _finite_rows(cohort.updates) & _finite_rows(cohort.buffers)
    found = included(cohort) & ~finite
    found |= cohort.scores.get("non_finite", jnp.zeros_like(found))
    cohort = with_score(cohort, "non_finite", found)
    cohort = exclude(cohort, ~finite)
    bad_first = jnp.argsort(finite)
    updates = jax.lax.fori_loop(
        0,
        (~finite).sum(),
        lambda i, updates: updates.at[bad_first[i]].set(0.0),
        cohort.updates,
    )
    return cohort._replace(
        updates=updates,
        buffers=jnp.where(finite[:, None], cohort.buffers, context.global_buffers),
    )


def _finite_rows(rows: Array) -> Array:
    """Returns bool [n]: all entries of a row (f32 [n, k]) are finite.

    Zero times anything finite is zero: a matrix-vector product runs at the memory's
    speed, a reduction of `isfinite` at a tenth of it (XLA on CPU).
    """
    # The compiler must not see that these are zeros.
    zeros = jax.lax.optimization_barrier(jnp.zeros(rows.shape[1]))
    return jnp.matmul(rows, zeros, precision=jax.lax.Precision.HIGHEST) == 0
