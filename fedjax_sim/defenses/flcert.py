"""FLCert: several models, each from its own group of clients, vote on the answer.

Cao, Zhang, Jia, Gong, "FLCert: Provably Secure Federated Learning against Poisoning
Attacks", IEEE TIFS 2022. The groups start from the same model and never meet; an
attacker can spoil the models of its own group alone. All groups train side by side in
one program: their clients are the cohort of the round.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.defense import (
    Aggregate,
    Cohort,
    Defense,
    Groups,
    RoundContext,
    included,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Natural, checked
from fedjax_sim.defenses.parts.client_order import in_client_order
from fedjax_sim.defenses.parts.pipeline import exclude_non_finite
from fedjax_sim.defenses.parts.reductions import coordinatewise, weighted_mean
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.distances import finite
from fedjax_sim.numerics.rows import take_rows

Base = Literal["median", "median_lower", "fedavg"]


class FLCertState(NamedTuple):
    """The models of the groups."""

    group: Array  # i32 [N], of each client
    models: GlobalModel  # leading axis G
    begun: Array  # bool [], before that all groups have the global model


@checked("defense")
def flcert(
    *, num_groups: Count = 10, base: Base = "median", grouping_seed: Natural = 0
) -> Defense:
    """Returns FLCert: G models, a majority vote at prediction, ties to the lower label.

    The model of the run is the mean of the group models; only its predictions are
    replaced by the vote. `config.server.lr` must be 1: the groups take full steps.

    Args:
      num_groups: G, of clients, each with a model of its own.
      base: aggregation inside a group: median, with the smaller of the two middle
        values (`median_lower`, the released code of FedREDefense), or mean.
      grouping_seed: of the permutation that divides the clients evenly.

    Raises:
      InputError: an option outside its range; by `init`, more groups than clients.
    """
    reduce = {
        "median": coordinatewise(order_statistics.median),
        "median_lower": coordinatewise(partial(order_statistics.median, even="lower")),
        "fedavg": weighted_mean(),
    }[base]

    def init(spec: FederationSpec) -> FLCertState:
        if num_groups > spec.population:
            raise InputError(
                f"config.defense.num_groups = {num_groups} must be at most the number "
                f"of clients, {spec.population}"
            )
        order = np.random.default_rng(grouping_seed).permutation(spec.population)
        group = np.empty(spec.population, np.int32)
        group[order] = np.arange(spec.population) % num_groups
        return FLCertState(
            group=jnp.asarray(group),
            models=GlobalModel(
                jnp.zeros((num_groups, spec.layout.size)),
                jnp.zeros((num_groups, spec.num_buffers)),
            ),
            begun=jnp.bool_(False),
        )

    def models(state: FLCertState, model: GlobalModel) -> GlobalModel:
        """The models of the groups, leading axis G."""
        return jax.tree.map(
            lambda own, first: jnp.where(state.begun, own, first[None]),
            state.models,
            model,
        )

    def own_model(state: FLCertState, model: GlobalModel, group: Array) -> GlobalModel:
        return jax.tree.map(
            lambda own, first: jnp.where(state.begun, own[group], first),
            state.models,
            model,
        )

    def broadcast(state: FLCertState, model: GlobalModel, client: Array) -> GlobalModel:
        return own_model(state, model, state.group[client])

    @in_client_order
    def aggregate(
        state: FLCertState, cohort: Cohort, context: RoundContext
    ) -> tuple[FLCertState, Cohort, Aggregate]:
        cohort = exclude_non_finite(cohort, context)
        broadcasted = GlobalModel(context.global_params, context.global_buffers)
        group_of = state.group[cohort.client_ids]

        # No group has more clients than this, however many there are in the cohort.
        largest = min(len(group_of), -(-len(state.group) // num_groups))

        def step(group: Array) -> GlobalModel:
            member = included(cohort) & (group_of == group)
            own = cohort._replace(
                weights=jnp.where(member, cohort.weights, 0.0), scores={}
            )
            members = jnp.argsort(~member, stable=True)[:largest]
            result = reduce(jax.tree.map(lambda x: take_rows(x, members), own), context)
            old = own_model(state, broadcasted, group)
            new = GlobalModel(finite(old.params + result.update), result.buffers)
            # A group of which nobody takes part keeps its model.
            return jax.tree.map(lambda a, b: jnp.where(member.any(), a, b), new, old)

        after = lax.map(step, jnp.arange(num_groups))
        share = jnp.full(num_groups, 1 / num_groups)
        mean = jax.tree.map(lambda x: finite(share @ x), after)
        result = Aggregate(finite(mean.params - context.global_params), mean.buffers)
        survived = included(cohort).any()
        result = Aggregate(
            update=jnp.where(survived, result.update, 0.0),
            buffers=jnp.where(survived, result.buffers, context.global_buffers),
        )
        return state._replace(models=after, begun=jnp.bool_(True)), cohort, result

    def keep(state, model, cohort, context):
        del cohort, context
        return state, model

    def predict(
        state: FLCertState, model: GlobalModel, network: Network, images: Array
    ) -> Array:
        answers = lax.map(
            lambda own: network.logits(own.params, own.buffers, images).argmax(-1),
            models(state, model),
        )
        return majority_vote(answers, network.num_classes)

    return Defense(
        init,
        aggregate,
        keep,
        broadcast=broadcast,
        groups=Groups(num_groups, lambda state: state.group, models),
        predict=predict,
    )


def majority_vote(answers: Array, num_classes: int) -> Array:
    """Returns the most frequent label i32 [B] of i32 [G, B]; ties: the smallest."""
    return jax.nn.one_hot(answers, num_classes).sum(0).argmax(-1)


def needs_full_steps(config: Config) -> None:
    """Refuses a server step of its own: the groups' models are what is voted on."""
    if config.server.lr != 1 or config.server.optimizer != "none":
        raise InputError(
            f"config.server.lr = {config.server.lr}, config.server.optimizer = "
            f"{config.server.optimizer!r}: the groups of config.defense.name = "
            "'flcert' take full steps of their own; allowed: 1 and none"
        )


ENTRY = Entry(
    flcert,
    paper="Cao, Zhang, Jia, Gong, IEEE TIFS 2022",
    check=needs_full_steps,
)
