"""FLTrust: trust bootstrapped from the server's own clean samples.

Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust
Bootstrapping", NDSS 2021, section IV. The variant `authors` is what the released code
of DROP computes under that name (Syros et al. 2025, arXiv 2502.07011).
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RootRequest,
    RoundContext,
    included,
    root_of,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.options import Count, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import (
    finite,
    in_float32,
    row_lengths,
    row_norms,
    unit_rows,
)

Variant = Literal["paper", "authors"]


@checked("defense")
def fltrust(*, variant: Variant = "paper", num_samples: Count = 100) -> Defense:
    """Returns FLTrust: the mean of rescaled updates, weighted by their trust.

    Each round the server trains on its own samples from the broadcast model as a
    client would. The trust of a client, score `trust` f32 [n], is the positive part
    of the cosine between its update and the server's; every update is brought to the
    length of the server's. Without any trust the global model stays.

    Args:
      variant: `paper`; or `authors`, which compares and rescales whole *models*, that
        are nearly parallel, so that it is close to FedAvg: there the server always
        trains with momentum 0.9 and weight decay 0.005, and without any trust its
        model becomes the global one.
      num_samples: clean samples of the server (about 100 in the paper, 500 in
        FedREDefense, as many as a client has in DROP).

    Raises:
      InputError: an option outside its range.
    """
    if variant == "paper":
        return pipeline(stateless(_trust_updates), root=RootRequest(num_samples))
    root = RootRequest(num_samples, balanced=True, momentum=0.9, weight_decay=0.005)
    return pipeline(stateless(_trust_models), root=root)


def trust_in(rows: Array, reference: Array) -> Array:
    """Returns max(0, cos) f32 [n] between rows f32 [n, d] and `reference` f32 [d]."""
    unit = unit_rows(reference[None])[0]
    cosines = jnp.matmul(unit_rows(rows), unit, precision=lax.Precision.HIGHEST)
    return jnp.maximum(cosines, 0.0)


def _server_model(context: RoundContext) -> GlobalModel:
    model = GlobalModel(context.global_params, context.global_buffers)
    return root_of(context).train(model, context.key)


def _trust_updates(cohort: Cohort, context: RoundContext) -> Cohort:
    reference = _server_model(context).params - context.global_params
    trust = jnp.where(included(cohort), trust_in(cohort.updates, reference), 0.0)
    length = row_norms(reference[None])[0]
    cohort = cohort._replace(updates=length * unit_rows(cohort.updates), weights=trust)
    return with_score(cohort, "trust", trust)


def _trust_models(cohort: Cohort, context: RoundContext) -> Cohort:
    server = _server_model(context)
    models = finite(context.global_params[None] + cohort.updates)
    trust = jnp.where(included(cohort), trust_in(models, server.params), 0.0)
    lengths, length = row_lengths(models), row_norms(server.params[None])
    norms = in_float32(lengths)
    factors = length / jnp.where(norms > 0, norms, 1.0)
    trusted = (trust > 0).any()
    models = jnp.where(
        trusted, length[:, None] * unit_rows(models, lengths), server.params[None]
    )
    buffers = jnp.where(
        trusted, factors[:, None] * cohort.buffers, server.buffers[None]
    )
    cohort = cohort._replace(
        updates=models - context.global_params[None],
        buffers=buffers,
        weights=jnp.where(trusted, trust, cohort.weights),
    )
    return with_score(cohort, "trust", trust)


ENTRY = Entry(
    fltrust,
    paper="Cao et al., NDSS 2021",
    oracle="clean samples, taken from the training set",
)
