"""Two short forms: stages without state, defences that depend on one number."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import Cohort, Defense, RoundContext, Stage
from fedjax_sim.contracts.federation import FederationSpec


def stateless(judge: Callable[[Cohort, RoundContext], Cohort]) -> Stage:
    """Returns the stage that remembers nothing between rounds."""

    def init(spec: FederationSpec) -> tuple[()]:
        del spec
        return ()

    def apply(
        state: tuple[()], cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], Cohort]:
        return state, judge(cohort, context)

    return Stage(init, apply)


def with_count(
    resolve: Callable[[FederationSpec], Any], rule: Callable[[Array], Defense]
) -> Defense:
    """Returns a defence that depends on one number of its federation.

    The number is part of the state, so that a sweep over it compiles once.

    Args:
      resolve: gives the number, usually that of the clients to distrust; may raise
        `InputError`.
      rule: gives the defence for the number (an array without axes).
    """

    def init(spec: FederationSpec) -> Any:
        number = jnp.asarray(resolve(spec))
        return number, rule(number).init(spec)

    def aggregate(state, cohort, context):
        number, inner = state
        inner, cohort, result = rule(number).aggregate(inner, cohort, context)
        return (number, inner), cohort, result

    def after(state, model, cohort, context):
        number, inner = state
        inner, model = rule(number).after(inner, model, cohort, context)
        return (number, inner), model

    return Defense(init, aggregate, after)
