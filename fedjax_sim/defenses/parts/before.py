"""Stages in front of a whole server rule."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.defense import Defense, Stage, included
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.client_order import in_client_order
from fedjax_sim.defenses.parts.pipeline import exclude_non_finite

PyTree = Any


def stages_before(name: str, stages: Mapping[str, Stage], defense: Defense) -> Defense:
    """Returns a rule that sees what the stages make of the cohort.

    The rule keeps whatever else it has: a client side, samples of its own, predictions.
    Its state is the second of two, the first are those of the stages.

    Args:
      name: of the rule, for messages.
      stages: by name, in the order in which they act.
      defense: the rule.

    Raises:
      InputError: the rule cannot have such a stage in front of it.
    """
    if not stages:
        return defense
    _refuse(name, stages, defense)

    def init(spec: FederationSpec) -> PyTree:
        return tuple(stage.init(spec) for stage in stages.values()), defense.init(spec)

    @in_client_order
    def aggregate(state, cohort, context):
        states, inner = state
        cohort = exclude_non_finite(cohort, context)
        new, given = [], []
        for i, (stage, own) in enumerate(zip(stages.values(), states, strict=True), 1):
            keyed = context._replace(key=jax.random.fold_in(context.key, i))
            own, cohort = stage.apply(own, cohort, keyed)
            new.append(own)
            given.append(cohort)
        keyed = context._replace(key=jax.random.fold_in(context.key, 0))
        inner, cohort, result = defense.aggregate(inner, cohort, keyed)
        for stage, before in zip(
            reversed(list(stages.values())), reversed(given), strict=True
        ):
            if stage.settle is not None:
                cohort = stage.settle(before, cohort)
        return (tuple(new), inner), cohort, result

    def after(state, model, cohort, context):
        states, inner = state
        keyed = context._replace(key=jax.random.fold_in(context.key, 0))
        inner, model = defense.after(inner, model, cohort, keyed)
        return (states, inner), model

    return defense._replace(
        init=init,
        aggregate=aggregate,
        after=after,
        eligible=_of_rule(defense.eligible),
        owed=_of_rule(defense.owed),
        broadcast=_of_rule(defense.broadcast),
        predict=_of_rule(defense.predict),
    )


def weighed_by_examples(defense: Defense) -> Defense:
    """Returns a rule that is given the clients' numbers of samples as their weights.

    FedAvg's own weights, n_k / n (McMahan et al., AISTATS 2017, Algorithm 1). A client
    without samples does not count.
    """

    def aggregate(state, cohort, context):
        counts = jnp.where(included(cohort), cohort.num_examples, 0)
        weighed = cohort._replace(weights=counts.astype(jnp.float32))
        return defense.aggregate(state, weighed, context)

    return defense._replace(aggregate=aggregate)


def _of_rule(function):
    """The same function of the state, which is the rule's only."""
    if function is None:
        return None
    return lambda state, *rest: function(state[1], *rest)


def _refuse(name: str, stages: Mapping[str, Stage], defense: Defense) -> None:
    start = f"config.defense.before = {tuple(stages)}: config.defense.name = {name!r} "
    if defense.groups is not None:
        raise InputError(
            f"{start}trains a model for each group of clients, whose updates a stage "
            "would mix; allowed: none"
        )
    merging = [key for key, stage in stages.items() if stage.settle is not None]
    if merging and defense.eligible is not None:
        raise InputError(
            f"{start}bans clients for good, and {merging[0]!r} would let one be banned "
            "for others; allowed: a rule that bans nobody"
        )
