"""FLDetector: clients whose updates cannot be predicted from their past are expelled.

Zhang, Cao, Jia, Gong, "FLDetector: Defending Federated Learning Against Model
Poisoning Attacks via Detecting Malicious Clients", KDD 2022, Algorithms 1 to 3.

With the global model w_t, the update g_i,t of client i and the aggregate g_t (updates
are negative gradients here); behind the colon the name in the code:

    dw_t = w_t - w_(t-1),  dg_t = g_t - g_(t-1)     `steps`, `changes`, the last window
    H dw                                            by L-BFGS: `numerics.lbfgs`
    p_i,t = g_i,(t-1) + H (w_t - w_(t-1))           predicted: `prediction_errors`
    d_i,t = ||p_i,t - g_i,t|| / sum_j ||p_j,t - g_j,t||
    s_i = sum of d_i over the window                the suspicious score: `_detect`

The gap statistic says whether the s_i are more than one cluster; if so, k-means splits
them in two and the cluster of the larger mean is expelled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import row_norms
from fedjax_sim.numerics.gap_statistic import gap_statistic
from fedjax_sim.numerics.kmeans_1d import upper_cluster
from fedjax_sim.numerics.lbfgs import hessian_vector_product
from fedjax_sim.numerics.rows import take_rows

_REFERENCES = 10  # sets of uniform draws behind the gap statistic


class FLDetectorState(NamedTuple):
    """What the server remembers (w = `window`)."""

    first: GlobalModel  # the model of round 1, for the restart
    last_params: Array  # f32 [d], the model broadcast in the last round
    last_aggregate: Array  # f32 [d], the update applied in the last round
    last_updates: Array  # f32 [N, d], by client
    steps: Array  # f32 [w, d], changes of the model, the oldest first
    changes: Array  # f32 [w, d], changes of the aggregate in the same steps
    num_pairs: Array  # i32 [], filled rows of both, from the end
    errors: Array  # f32 [w, N], normalised prediction errors, the oldest first
    num_scored: Array  # i32 [], rounds that were scored
    detected: Array  # bool [], whether the one detection is over
    expelled: Array  # bool [N]
    restart: Array  # bool [], the model of this round is thrown away


@checked("defense")
def fldetector(*, window: Count = 10, cold_start: Count = 50) -> Defense:
    """Returns FLDetector: FedAvg, one detection, and a restart without the flagged.

    The server predicts each update as the client's last one plus the change that an
    L-BFGS estimate of the Hessian gives for the step of the global model. The length
    of the difference, as a share of the round's sum, is the score `prediction_error`
    f32 [n]. When `window` rounds after round cold_start + 1 have been scored, the gap
    statistic of their sums decides in every round whether there is an attack. In the
    first round in which there is, the upper of two clusters is expelled for good
    (score `flagged` bool [n]), nothing is aggregated, and training starts again from
    the first model.

    Args:
      window: past pairs of the estimate, and rounds whose errors are summed.
      cold_start: rounds after the first that are not scored.

    Raises:
      InputError: an option outside its range; by `init`, where not every client takes
        part in every round.
    """
    mean = pipeline()

    def init(spec: FederationSpec) -> FLDetectorState:
        n, d = spec.population, spec.layout.size
        if spec.cohort_size != n:
            raise InputError(
                f"config.participation.clients_per_round = {spec.cohort_size} must be "
                f"config.partition.num_clients = {n}: FLDetector needs every client in "
                "every round"
            )
        return FLDetectorState(
            first=GlobalModel(jnp.zeros(d), jnp.zeros(spec.num_buffers)),
            last_params=jnp.zeros(d),
            last_aggregate=jnp.zeros(d),
            last_updates=jnp.zeros((n, d)),
            steps=jnp.zeros((window, d)),
            changes=jnp.zeros((window, d)),
            num_pairs=jnp.int32(0),
            errors=jnp.zeros((window, n)),
            num_scored=jnp.int32(0),
            detected=jnp.bool_(False),
            expelled=jnp.zeros(n, bool),
            restart=jnp.bool_(False),
        )

    def aggregate(state: FLDetectorState, cohort: Cohort, context: RoundContext):
        cohort = exclude(cohort, state.expelled[cohort.client_ids])
        state = _remember_first(state, context)
        _, screened, result = mean.aggregate(((), ()), cohort, context)
        errors = prediction_errors(state, screened, context.global_params)
        screened = with_score(screened, "prediction_error", errors)
        state = _record(state, screened, errors, context.round - 1 > cold_start)
        state = _detect(state, context.key)
        state = _remember_round(state, screened, result.update, context)
        flagged = state.restart & state.expelled[cohort.client_ids]
        judged = with_score(exclude(screened, state.restart), "flagged", flagged)
        return (
            state,
            judged,
            result._replace(
                update=jnp.where(state.restart, 0.0, result.update),
                buffers=jnp.where(
                    state.restart, context.global_buffers, result.buffers
                ),
            ),
        )

    def after(state, model, cohort, context):
        del cohort, context
        model = jax.tree.map(
            lambda old, new: jnp.where(state.restart, old, new), state.first, model
        )
        return state._replace(restart=jnp.bool_(False)), model

    return Defense(init, aggregate, after, eligible=lambda state: ~state.expelled)


@compiled()
def prediction_errors(state: FLDetectorState, cohort: Cohort, params: Array) -> Array:
    """Returns the shares f32 [n] of the prediction error, 0 for excluded clients.

    All are 0 where nothing can be predicted.

    Args:
      state: with at least one pair.
      cohort: of the clients that count.
      params: f32 [d], the model that was broadcast.
    """
    change = hessian_vector_product(
        state.steps, state.changes, state.num_pairs, params - state.last_params
    )
    predicted = take_rows(state.last_updates, cohort.client_ids) + change[None]
    errors = jnp.where(included(cohort), row_norms(predicted - cohort.updates), 0.0)
    # Shares: the sum of several near the largest number of float32 is none.
    errors = errors / jnp.where(errors.max() > 0, errors.max(), 1.0)
    total = errors.sum()
    return jnp.where(jnp.isfinite(total) & (total > 0), errors / total, 0.0)


def _remember_first(state: FLDetectorState, context: RoundContext) -> FLDetectorState:
    model = GlobalModel(context.global_params, context.global_buffers)
    first = jax.tree.map(
        lambda old, new: jnp.where(context.round == 1, new, old), state.first, model
    )
    return state._replace(first=first)


def _record(
    state: FLDetectorState, cohort: Cohort, errors: Array, warm: Array
) -> FLDetectorState:
    """Appends the errors of the round, where there are any."""
    scored = warm & ~state.detected & (errors > 0).any()
    # A client that was not judged counts as one in the middle.
    mask = included(cohort)
    neutral = errors.sum() / jnp.maximum(mask.sum(), 1)
    row = jnp.full(state.errors.shape[1], neutral)
    row = row.at[cohort.client_ids].set(jnp.where(mask, errors, neutral))
    return state._replace(
        errors=jnp.where(scored, _pushed(state.errors, row), state.errors),
        num_scored=state.num_scored + scored,
    )


def _detect(state: FLDetectorState, key: Array) -> FLDetectorState:
    scores = state.errors.sum(0)
    references = jax.random.uniform(key, (_REFERENCES, len(scores)))
    # Where no number of clusters fits, the released code fails: an attack, too.
    several = gap_statistic(scores, references).num_clusters != 1
    ready = ~state.detected & (state.num_scored >= len(state.errors))
    restart = ready & several
    return state._replace(
        detected=state.detected | restart,
        expelled=state.expelled | (restart & upper_cluster(scores)),
        restart=restart,
    )


def _remember_round(
    state: FLDetectorState, cohort: Cohort, update: Array, context: RoundContext
) -> FLDetectorState:
    """Keeps what the next round is predicted from."""
    step = context.global_params - state.last_params
    change = update - state.last_aggregate
    # There is no step before the second round, and none where the model stood still.
    moved = (context.round > 1) & (step != 0).any() & included(cohort).any()
    rows = included(cohort)[:, None]
    last = take_rows(state.last_updates, cohort.client_ids)
    updates = jnp.where(rows, cohort.updates, last)
    return state._replace(
        last_params=context.global_params,
        last_aggregate=update,
        last_updates=state.last_updates.at[cohort.client_ids].set(updates),
        steps=jnp.where(moved, _pushed(state.steps, step), state.steps),
        changes=jnp.where(moved, _pushed(state.changes, change), state.changes),
        num_pairs=jnp.minimum(state.num_pairs + moved, len(state.steps)),
    )


def _pushed(rows: Array, row: Array) -> Array:
    return jnp.concatenate([rows[1:], row[None]])


def needs_every_client(config: Config) -> None:
    """Refuses a round of some clients: a prediction starts from the last update."""
    genuine, fakes = config.partition.num_clients, config.attack.num_fake
    if config.participation.clients_per_round != genuine + fakes:
        total = f"num_clients = {genuine}" + f" + attack.num_fake = {fakes}" * bool(
            fakes
        )
        raise InputError(
            f"config.participation.clients_per_round = "
            f"{config.participation.clients_per_round} must be config.partition."
            f"{total}: FLDetector needs every client in every round"
        )


ENTRY = Entry(
    fldetector,
    paper="Zhang et al., KDD 2022",
    check=needs_every_client,
    weighs=True,
)
