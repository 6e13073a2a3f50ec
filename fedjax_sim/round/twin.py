"""A run beside the same run without its attackers: the attack's effect, measured.

Sun et al. (FL-WBC), NeurIPS 2021, and Zhu, Roos, Chen (LeadFL), ICML 2023, eq. 1, call
the difference of the two models the attack effect on the parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.client import ClientTask
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.precision import highest
from fedjax_sim.numerics.flat import ravel
from fedjax_sim.round import attack_effect, federation, training
from fedjax_sim.round.federation import Parts
from fedjax_sim.round.local_work import received
from fedjax_sim.round.state import FedState, Inputs, RoundReport, Sides

PyTree = Any
Step = Callable[[FedState, Inputs], tuple[FedState, PyTree]]


class Coupled(NamedTuple):
    """A run and the same run without its attackers, after the same rounds."""

    main: FedState
    twin: FedState
    effect: Array  # f32 [d], the attack effect by its recursion; see `couple`


def couple(
    main: Parts,
    twin: Parts | None,
    timed: Callable[[Parts], Callable[..., tuple[FedState, PyTree]]],
) -> tuple[Callable[[Inputs], PyTree], Callable[[PyTree, Inputs], PyTree]]:
    """Returns `init` and `one_round` of a run and its twin together.

    Their states are `Coupled`, or `(state,)` without a twin. `effect` is the measured
    difference of the two models after a round with attackers, and from there on is
    carried through the rounds without by `carry_effect`; NaN where that does not hold.

    Args:
      main: the run.
      twin: the same federation without the attack.
      timed: `parts -> (state, inputs) -> (state, (report, clock))`; see `round.clock`.
    """
    step = timed(main)
    if twin is None:

        def only_step(states, inputs):
            state, reported = step(states[0], inputs)
            return (state,), reported

        return (lambda inputs: (federation.init(main, inputs),)), only_step

    def init(inputs: Inputs) -> Coupled:
        state = federation.init(main, inputs)
        clean = federation.init(twin, inputs)
        return Coupled(state, clean, jnp.zeros_like(state.params))

    def both(states: Coupled, inputs: Inputs) -> tuple[Coupled, PyTree]:
        state, reported = step(states.main, inputs)
        clean, _ = federation.round_step(twin, states.twin, inputs)
        report, _ = reported
        if carries_effect(main):
            attacked = (report.active & report.malicious & report.present).any()
            effect = lax.cond(
                attacked,
                lambda: state.params - clean.params,
                lambda: carry_effect(main, states.main, inputs, report, states.effect),
            )
        else:
            effect = jnp.full_like(states.effect, jnp.nan)
        return Coupled(state, clean, effect), reported

    return init, both


def carries_effect(parts: Parts) -> bool:
    """Whether the recursion holds: not with a server optimiser or clients' memory."""
    return parts.server_optimizer is None and parts.sides({}).client.training is None


@highest
def carry_effect(
    parts: Parts, state: FedState, inputs: Inputs, report: RoundReport, delta: Array
) -> Array:
    """Returns the effect f32 [d] after a round without attackers.

    Args:
      parts: of the run.
      state: before the round.
      inputs: of the run.
      report: of the round.
      delta: f32 [d], the effect before it.
    """
    sides = parts.sides(inputs.hyper.options)
    inputs = federation.at_round(parts, inputs, report.round)
    carried = federation.run_cohort(
        parts,
        _effect_carrier(parts, sides),
        (inputs, GlobalModel(state.params, state.buffers), state.defense, delta),
        inputs,
        report.round,
        report.client_ids,
        report.present,
        jnp.zeros_like(report.present),
        report.present,
    )
    weights = report.weights / jnp.where(report.skipped, 1.0, report.weights.sum())
    carried = jnp.where(weights[:, None] > 0, carried, 0.0)  # NaN of the excluded
    moved = delta + inputs.hyper.server_lr * (weights @ carried - delta)
    return jnp.where(report.skipped, delta, moved)


def _effect_carrier(
    parts: Parts, sides: Sides
) -> Callable[[PyTree, ClientTask], Array]:
    """Returns `train(shared, task) -> f32 [d]`: delta behind a client's local steps."""
    network = parts.network
    # The whole batch: parts of it are a loop, which has no second derivative.
    gradient = training.batch_gradient(network.model, None)

    def train(shared, task):
        inputs, model, defense_state, delta = shared
        model = received(sides.defense, defense_state, model, task.client_id)
        hyper = inputs.hyper
        rates = hyper.learning_rate, hyper.momentum, hyper.weight_decay
        _, _, _, delta, _ = training.train_client(
            reader=parts.reader,
            work=parts.work,
            gradient=attack_effect.with_effect(gradient, hyper.learning_rate),
            optimizer=(sides.client.optimizer or training.sgd)(*rates),
            data=inputs.data,
            params=network.layout.unravel(model.params),
            buffers=network.buffer_layout.unravel(model.buffers),
            task=task,
            memory=network.layout.unravel(delta),
        )
        return ravel(delta)

    return train
