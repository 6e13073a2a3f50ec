"""DeepSight: clusters of what a client's last layer tells of its labels.

Rieger, Nguyen, Miettinen, Sadeghi, "DeepSight: Mitigating Backdoor Attacks in Federated
Learning Through Deep Model Inspection", NDSS 2022, sections IV and V. What becomes of
noise points, which the paper leaves open: such a point is at distance 1 from everybody,
and in the end a cluster of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import (
    Cohort,
    Defense,
    RoundContext,
    Stage,
    exclude,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.options import Count, Fraction, Range, Traced, checked
from fedjax_sim.defenses.parts.clipping import clip_factors, median_norm, shorten
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics import order_statistics
from fedjax_sim.numerics.cosines import cosine_distances
from fedjax_sim.numerics.distances import in_float32, row_lengths
from fedjax_sim.numerics.gram import row_units
from fedjax_sim.numerics.hdbscan import hdbscan

# Images per pass of a network.
_BATCH = 500

# Of a logarithm of two probabilities' ratio: the squares of what is beyond would leave
# float32, and the number of a client whose network gives none is this.
_LARGEST_LOG = 40.0

# (seed, batch) -> images f32 [B, H, W, C]; the batches of a seed are of one size.
Draw = Callable[[Array, Array], Array]


@checked("defense")
def deepsight(
    *,
    num_samples: Count = 20_000,
    num_seeds: Count = 3,
    tau: Traced[Fraction] = 1 / 3,
    min_cluster_size: Annotated[int, Range(2)] = 5,
    min_samples: Count = 3,
) -> Defense:
    """Returns the mean of the clipped updates of clusters with few suspicious clients.

    A client is suspicious that moved few outputs of the last layer: whose number of
    energies above a threshold (score `threshold_exceedings` i32 [n]) is at most half of
    the median. Clients are clustered by HDBSCAN three times: by the energies, by the
    ratios of their network's outputs to the global one's on random images, and by the
    cosines of their biases; then by how often they are together. A cluster is accepted
    if a share of less than `tau` of it is suspicious. Accepted updates are clipped to
    the median norm of all. Score: `deepsight_cluster` i32 [n], -1 for noise.

    Args:
      num_samples: random images of a seed (paper: 20 000); every round every client's
        network sees all of them.
      num_seeds: sets of random images.
      tau: see above.
      min_cluster_size, min_samples: of HDBSCAN; the paper does not give them.

    Raises:
      InputError: an option outside its range.
    """
    clusters = partial(
        hdbscan, min_cluster_size=min_cluster_size, min_samples=min_samples
    )

    def init(spec: FederationSpec) -> Array:
        key = jax.random.key(0) if spec.key is None else spec.key
        return jax.random.key_data(key)

    def apply(
        seed: Array, cohort: Cohort, context: RoundContext
    ) -> tuple[Array, Cohort]:
        # In the order of the ids: clusters are built from the first of them.
        order = jnp.argsort(cohort.client_ids)
        mask = included(cohort)[order]
        draw = random_images(
            jax.random.wrap_key_data(seed), context.network, num_samples
        )
        updates, buffers = cohort.updates[order], cohort.buffers[order]
        ratios = division_differences(
            updates, buffers, context, draw, num_seeds, num_samples
        )
        seen = inspect(updates, ratios, mask, context.network, clusters)
        accepted = accept(seen, mask, tau)
        back = lambda x: jnp.zeros_like(x).at[order].set(x)
        lengths = row_lengths(cohort.updates)
        limit = median_norm(in_float32(lengths), included(cohort))
        cohort = with_score(
            cohort, "threshold_exceedings", back(seen.threshold_exceedings)
        )
        cohort = with_score(cohort, "deepsight_cluster", back(seen.labels))
        cohort = shorten(cohort, clip_factors(lengths, limit))
        return seed, exclude(cohort, ~back(accepted))

    return pipeline(Stage(init, apply))


class Seen(NamedTuple):
    """What the server finds in the clients' models."""

    energies: Array  # f32 [n, C], normalised (NEUPs)
    threshold_exceedings: Array  # i32 [n]
    suspicious: Array  # bool [n]
    by_cosine: Array  # i32 [n], clusters
    by_energy: Array  # i32 [n]
    by_ratio: Array  # i32 [seeds, n]
    together: Array  # f32 [n, n], the merged distances
    labels: Array  # i32 [n], the final clusters, -1 for noise


def random_images(key: Array, network: Network, num_samples: int) -> Draw:
    """Returns the images of a run, uniform in [0, 1]: the same ones in every round."""
    size = min(_BATCH, num_samples)

    def draw(seed: Array, batch: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, seed), batch)
        return jax.random.uniform(own, (size, *network.image_shape))

    return draw


def division_differences(
    updates: Array,
    buffers: Array,
    context: RoundContext,
    draw: Draw,
    num_seeds: int,
    num_samples: int,
) -> Array:
    """Returns the DDifs f32 [seeds, n, C]: mean ratios of output probabilities.

    Args:
      updates, buffers: f32 [n, d] and [n, b], of the clients.
      context: the global model.
      draw: the images.
      num_seeds, num_samples: how many sets, and images of each.
    """
    network, start = context.network, context.global_params

    def logs(params: Array, own: Array, images: Array) -> Array:
        return jax.nn.log_softmax(network.logits(params, own, images))

    def of_seed(seed: Array) -> Array:
        size = len(jax.eval_shape(lambda: draw(seed, jnp.int32(0))))

        def add(batch: Array, total: Array) -> Array:
            images = draw(seed, batch)
            counts = (batch * size + jnp.arange(size) < num_samples)[:, None]
            usual = logs(start, context.global_buffers, images)

            def of_client(client: tuple[Array, Array]) -> Array:
                update, own = client
                gap = logs(start + update, own, images) - usual
                gap = jnp.nan_to_num(gap, nan=_LARGEST_LOG)
                ratio = jnp.exp(jnp.minimum(gap, _LARGEST_LOG))
                return jnp.where(counts, ratio, 0.0).sum(0)

            return total + lax.map(of_client, (updates, buffers))

        classes = jax.eval_shape(
            lambda: logs(start, context.global_buffers, draw(seed, jnp.int32(0)))
        ).shape[1]
        zeros = jnp.zeros((len(updates), classes))
        batches = -(-num_samples // size)
        return lax.fori_loop(0, batches, add, zeros) / num_samples

    return lax.map(of_seed, jnp.arange(num_seeds))


def inspect(
    updates: Array,
    ratios: Array,
    mask: Array,
    network: Network,
    clusters: Callable[..., Array],
) -> Seen:
    """Returns what the last layers and the ratios tell.

    Args:
      updates: f32 [n, d].
      ratios: f32 [seeds, n, C]; see `division_differences`.
      mask: bool [n], clients that count.
      network: of the clients.
      clusters: HDBSCAN, `(distances, mask, allow_single_cluster=...) -> i32 [n]`.
    """
    weights, biases = _last_layer(updates, network)
    # Only ratios matter, and the squares of no number leave float32.
    unit = jnp.maximum(row_units(biases), row_units(weights.reshape(len(mask), -1)))
    energy = jnp.abs(biases) / unit[:, None]
    energy += (jnp.abs(weights) / unit[:, None, None]).sum(1)
    energy = energy / jnp.maximum(energy.max(1, keepdims=True), 1e-30)
    squares = jnp.square(energy)
    energies = squares / jnp.maximum(squares.sum(1, keepdims=True), 1e-30)
    threshold = max(0.01, 1 / energies.shape[1]) * energies.max(1, keepdims=True)
    exceedings = (energies > threshold).sum(1)
    middle = order_statistics.median(exceedings[:, None].astype(jnp.float32), mask)[0]
    suspicious = mask & (exceedings <= middle / 2)

    cosines = cosine_distances(biases, jnp.zeros(biases.shape[1]))
    by_rows = jnp.concatenate([energies[None], ratios])
    apart = jnp.concatenate([cosines[None], jax.vmap(_between_rows)(by_rows)])
    labels = lax.map(lambda distances: clusters(distances, mask), apart)
    parted = jax.vmap(_parted)(labels)
    together = (parted[0] + parted[1] + parted[2:].mean(0)) / 3
    final = clusters(together, mask, allow_single_cluster=True)
    return Seen(
        energies,
        exceedings,
        suspicious,
        labels[0],
        labels[1],
        labels[2:],
        together,
        final,
    )


def accept(seen: Seen, mask: Array, tau: float | Array) -> Array:
    """Returns bool [n]: clients of clusters of which less than tau is suspicious."""
    labels = seen.labels
    alone = labels < 0
    same = ((labels[:, None] == labels[None, :]) & ~alone[None, :]) | (
        jnp.eye(len(labels), dtype=bool)
    )
    same &= mask[None, :]
    share = (same & seen.suspicious[None, :]).sum(1) / jnp.maximum(same.sum(1), 1)
    return mask & jnp.where(alone, ~seen.suspicious, share < tau)


def _last_layer(updates: Array, network: Network) -> tuple[Array, Array]:
    """The rows f32 [n, p, C] and f32 [n, C] of the last layer; no bias counts as 0."""
    tree = jax.vmap(network.layout.unravel)(updates)[network.model.last_layer]
    weights = tree["kernel"]
    zeros = jnp.zeros((len(updates), weights.shape[-1]))
    return weights, tree.get("bias", zeros)


def _between_rows(rows: Array) -> Array:
    """Euclidean distances f32 [n, n]; rows are few numbers, and the unit is free."""
    rows = rows / jnp.maximum(jnp.abs(rows).max(), 1e-30)
    return lax.map(lambda row: jnp.linalg.norm(rows - row[None], axis=1), rows)


def _parted(labels: Array) -> Array:
    """f32 [n, n]: 0 for clients in one cluster, 1 for others and for noise."""
    same = (labels[:, None] == labels[None, :]) & (labels >= 0)[:, None]
    return jnp.where(same, 0.0, 1.0)


ENTRY = Entry(
    deepsight,
    paper="Rieger et al., NDSS 2022",
    weighs=True,
)
