"""FLARE: trust by the similarity of what clients' networks make of clean samples.

Wang, Xiao, Chen, Hu, Lou, Hou, "FLARE: Defending Federated Learning against Model
Poisoning Attacks via Latent Space Representations", AsiaCCS 2022, section 4. The
variant `authors` is what the released code of DROP computes under that name (Syros et
al. 2025, arXiv 2502.07011).
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    Root,
    RootRequest,
    RoundContext,
    included,
    root_of,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.compiled import compiled
from fedjax_sim.core.options import Range, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.pipeline import pipeline

Variant = Literal["paper", "authors"]
Width = Annotated[float, Range(1e-6)]

# Images per pass of the network: a thousand at once would not fit beside the updates.
_BATCH = 128


@checked("defense")
def flare(
    *,
    variant: Variant = "paper",
    num_samples: Annotated[int, Range(2)] = 1000,
    temperature: Traced[Width] = 1.0,
    kernel_width: Traced[Width] = 1.0,
) -> Defense:
    """Returns FLARE: the mean of models, weighted by how often each is a neighbour.

    The server feeds its own samples to every client's network. Clients are as far
    apart as the maximum mean discrepancy of their penultimate features; each chooses
    its floor(n / 2) nearest others, and the weights are the softmax of how often a
    client is chosen, scores `chosen` and `trust` f32 [n].

    Args:
      variant: `paper` as above; `authors` trains the global model on the samples before
        the first round, with momentum 0.9 and weight decay 0.005.
      num_samples: clean samples of the server, augmented once and for all.
      temperature: of the softmax.
      kernel_width: sigma of the Gaussian kernel.

    Raises:
      InputError: an option outside its range.
    """

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        features = client_features(cohort, context)
        # In the order of the ids: two clients that are equally far but for rounding
        # must not change places with the rows of the cohort.
        order = jnp.argsort(cohort.client_ids)
        distances = discrepancies(features, kernel_width, order)
        chosen = times_chosen(distances, included(cohort), cohort.client_ids)
        return with_trust(cohort, chosen, temperature)

    root = RootRequest(num_samples, augmented=True, momentum=0.9, weight_decay=0.005)
    return pipeline(
        stateless(judge), root=root, start=_pretrain if variant == "authors" else None
    )


def _pretrain(model: GlobalModel, root: Root, key: Array) -> GlobalModel:
    return root.train(model, key)


def client_features(cohort: Cohort, context: RoundContext) -> Array:
    """Returns the penultimate features f32 [n, m, p] of the root samples."""
    images = root_of(context).images
    m = len(images)
    size = min(_BATCH, m)
    # The last batch is filled up with samples of the first.
    batches = jnp.resize(images, (-(-m // size) * size, *images.shape[1:]))
    batches = batches.reshape(-1, size, *images.shape[1:])

    def of_client(client: tuple[Array, Array]) -> Array:
        update, buffers = client
        params = context.global_params + update
        passes = lax.map(
            lambda batch: context.network.features(params, buffers, batch), batches
        )
        return passes.reshape(-1, passes.shape[-1])[:m]

    return lax.map(of_client, (cohort.updates, cohort.buffers))


@compiled()
def discrepancies(
    features: Array, kernel_width: float | Array, order: Array | None = None
) -> Array:
    """Returns the unbiased maximum mean discrepancies f32 [n, n], +inf if undefined.

    Args:
      features: f32 [n, m, p].
      kernel_width: sigma.
      order: i32 [n], a permutation: of two clients the one that comes first in it is
        the first in their kernel, which matters to rounding; None: as they stand.
    """
    n, m, _ = features.shape
    upper = np.triu_indices(n)
    order = jnp.arange(n) if order is None else order
    first, second = (order[places] for places in upper)

    def kernel_mean(pair: tuple[Array, Array]) -> Array:
        i, j = pair
        x, y = features[i], features[j]
        products = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2.0 * products
        kernel = jnp.exp(-jnp.maximum(squares, 0.0) / (2.0 * kernel_width**2))
        within = jnp.where(jnp.eye(m, dtype=bool), 0.0, kernel).sum() / (m * (m - 1))
        return jnp.where(i == j, within, kernel.mean())

    pairs = lax.map(kernel_mean, (first, second))
    means = jnp.zeros((n, n)).at[first, second].set(pairs).at[second, first].set(pairs)
    within = jnp.diagonal(means)
    distances = within[:, None] + within[None, :] - 2.0 * means
    return jnp.where(jnp.isnan(distances), jnp.inf, distances)


@compiled()
def times_chosen(distances: Array, mask: Array, client_ids: Array) -> Array:
    """Returns i32 [n]: how many others count a client among their nearest half.

    Ties go to the smaller client id.

    Args:
      distances: f32 [n, n].
      mask: bool [n], clients that choose and are chosen.
      client_ids: i32 [n].
    """

    def choices(i: Array, row: Array) -> Array:
        others = mask & (jnp.arange(len(mask)) != i)
        order = jnp.lexsort((client_ids, row, ~others))
        nearest = jnp.arange(len(mask)) < mask.sum() // 2
        return mask[i] & others & jnp.zeros_like(mask).at[order].set(nearest)

    return jax.vmap(choices)(jnp.arange(len(mask)), distances).sum(0)


def with_trust(cohort: Cohort, chosen: Array, temperature: float | Array) -> Cohort:
    """Weighs the clients that count by the softmax of `chosen` i32 [n]."""
    mask = included(cohort)
    trust = jax.nn.softmax(jnp.where(mask, chosen / temperature, -jnp.inf))
    trust = jnp.where(mask, trust, 0.0)
    cohort = with_score(cohort._replace(weights=trust), "trust", trust)
    return with_score(cohort, "chosen", chosen)


ENTRY = Entry(
    flare,
    paper="Wang et al., AsiaCCS 2022",
    oracle="clean samples, taken from the training set",
)
