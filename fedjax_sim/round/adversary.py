"""The attack as a round sees it: it acts alone, or in each group of clients apart.

Under a defence that divides the clients into groups (FLCert) the attackers of each
group have a state of their own and see only their group. That difference is here and
nowhere else: a round speaks to an `Adversary`.

Letters: `n` cohort, `d` parameters, `G` groups.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    CraftView,
    RoundTools,
    shown,
    taken_rows,
)
from fedjax_sim.contracts.defense import Groups
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.errors import InputError

PyTree = Any


class Adversary(NamedTuple):
    """An attack, whoever its clients share a model with.

    Attributes:
      init: `(spec) -> state`.
      prepare: `(state, tools) -> state`, before the training of a round with attackers.
      observe: `(state, round, model, state of the defence) -> state`, before a round.
      of_client: `(state, state of the defence, client_id)` -> the state of the attack
        that this client knows.
      craft: `(state, view, model) -> (state, updates f32 [n, d])`, those of attackers
        replaced. The view shows everything; the attack is shown what it declares.
      report: `(state) -> {name: number}`.
    """

    init: Callable[[AttackSpec], PyTree]
    prepare: Callable[[PyTree, RoundTools], PyTree]
    observe: Callable[[PyTree, Array, GlobalModel, PyTree], PyTree]
    of_client: Callable[[PyTree, PyTree, Array], PyTree]
    craft: Callable[[PyTree, CraftView, GlobalModel], tuple[PyTree, Array]]
    report: Callable[[PyTree], dict[str, Array]]


def adversary(attack: Attack, groups: Groups | None) -> Adversary:
    """Returns the adversary of an attack under a defence with these groups."""
    return _alone(attack) if groups is None else _in_groups(attack, groups)


def _alone(attack: Attack) -> Adversary:
    def observe(state, round_index, model, defense_state):
        del defense_state
        if attack.observe is None:
            return state
        return attack.observe(state, round_index, model.params)

    def craft(state, view, model):
        del model
        if attack.craft is None:
            return state, view.updates
        own = shown(attack, view)
        state, crafted = _crafted(attack.craft, state, own)
        return state, jnp.where(taken_rows(attack, own)[:, None], crafted, view.updates)

    return Adversary(
        init=lambda spec: jax.tree.map(jnp.asarray, attack.init(spec)),
        prepare=attack.prepare or (lambda state, tools: state),
        observe=observe,
        of_client=lambda state, defense_state, client_id: state,
        craft=craft,
        report=attack.report or (lambda state: {}),
    )


def _in_groups(attack: Attack, groups: Groups) -> Adversary:
    """The states of the groups have a leading axis G."""
    send = attack.craft
    if attack.prepare is not None:
        raise InputError(
            "config.attack.name: this attack prepares itself on the global model; "
            "config.defense.name must be a rule with one model for all clients"
        )

    def init(spec):
        one = jax.tree.map(jnp.asarray, attack.init(spec))
        return jax.tree.map(lambda x: jnp.stack([x] * groups.num_groups), one)

    def observe(states, round_index, model, defense_state):
        if attack.observe is None:
            return states
        models = groups.models(defense_state, model)
        see = jax.vmap(attack.observe, (0, None, 0))
        return see(states, round_index, models.params)

    def of_client(states, defense_state, client_id):
        group = groups.of(defense_state)[client_id]
        return jax.tree.map(lambda x: x[group], states)

    def craft(states, view, model):
        if send is None:
            return states, view.updates
        group_of = groups.of(view.defense)[view.client_ids]
        models = groups.models(view.defense, model)
        # The server's answer to a group is not that to the whole cohort.
        seen = shown(attack, view)._replace(answer=None)

        def act(group, carry):
            states, updates = carry
            member = group_of == group
            own = seen._replace(
                global_params=models.params[group],
                updates=jnp.where(member[:, None], seen.updates, 0.0),
                malicious=view.malicious & member,
                present=view.present & member,
            )
            state = jax.tree.map(lambda x: x[group], states)
            state, crafted = _crafted(send, state, own)
            states = jax.tree.map(lambda all_, x: all_.at[group].set(x), states, state)
            return states, jnp.where(taken_rows(attack, own)[:, None], crafted, updates)

        return lax.fori_loop(0, groups.num_groups, act, (states, view.updates))

    return Adversary(
        init=init,
        prepare=lambda states, tools: states,
        observe=observe,
        of_client=of_client,
        craft=craft,
        report=jax.vmap(attack.report) if attack.report else (lambda state: {}),
    )


def _crafted(
    craft: Callable[[PyTree, CraftView], tuple[PyTree, Array]],
    state: PyTree,
    view: CraftView,
) -> tuple[PyTree, Array]:
    """What an attack crafts; another shape would be broadcast in silence."""
    state, crafted = craft(state, view)
    if jnp.shape(crafted) != view.updates.shape:
        raise InputError(
            f"config.attack.name: craft gives updates {list(jnp.shape(crafted))}, "
            f"not {list(view.updates.shape)}"
        )
    return state, crafted
