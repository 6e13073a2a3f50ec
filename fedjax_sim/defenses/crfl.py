"""CRFL: clipping and noise on the global model, and a vote of noisy copies.

Xie, Chen, Chen, Li, "CRFL: Certifiably Robust Federated Learning against Backdoor
Attacks", ICML 2021, Algorithms 1 and 2. Default numbers: the authors' on MNIST.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.contracts.defense import After, Cohort, Defense, RoundContext
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.options import Natural, NonNegative, Sizable, Traced, checked
from fedjax_sim.defenses.parts.clipping import clip_factors, times
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import row_lengths


@checked("defense")
def crfl(
    *,
    clip_start: Traced[Sizable] = 2.0,
    clip_slope: Traced[NonNegative] = 0.1,
    clip_cap: Traced[Sizable] = 15.0,
    noise_sigma: Traced[NonNegative] = 0.01,
    num_votes: Natural = 1000,
) -> Defense:
    """Returns FedAvg whose new global model is clipped as a whole, then blurred.

    In round r (from 1) the parameters are shortened to min(clip_start + clip_slope *
    (r - 1), clip_cap), and Gaussian noise is added. Predictions are the majority of
    noisy copies of the clipped model, before the noise of its round; ties go to the
    smaller label.

    Args:
      clip_start, clip_slope, clip_cap: bound on the norm of all parameters, in the
        first round, more in every round, and at most; larger networks need larger ones.
      noise_sigma: standard deviation of the noise, of training and of the copies.
      num_votes: copies that vote at every evaluation, each a pass over the test set;
        0 predicts with the clipped model alone.

    Raises:
      InputError: an option outside its range.
    """

    def init(spec: FederationSpec) -> Array:
        return jnp.zeros(spec.layout.size)  # f32 [d], the noise in the global model

    def blur(
        noise: Array, model: GlobalModel, cohort: Cohort, context: RoundContext
    ) -> tuple[Array, GlobalModel]:
        del cohort
        bound = jnp.minimum(clip_start + clip_slope * (context.round - 1), clip_cap)
        noise = noise_sigma * jax.random.normal(context.key, noise.shape)
        return noise, model._replace(params=clip_model(model.params, bound) + noise)

    def predict(
        state: Any, model: GlobalModel, network: Network, images: Array
    ) -> Array:
        _, noise = state
        model = model._replace(params=model.params - noise)
        return vote(network, model, images, noise_sigma, num_votes)

    return pipeline(after=After(init, blur), predict=predict)


def clip_model(params: Array, bound: Array | float) -> Array:
    """Returns the parameters f32 [d] shortened to the norm `bound`."""
    return times(clip_factors(row_lengths(params[None]), bound), params[None])[0]


def vote(
    network: Network,
    model: GlobalModel,
    images: Array,
    noise_sigma: float | Array,
    num_votes: int,
) -> Array:
    """Returns the labels i32 [B] that most noisy copies of the model give."""
    if num_votes == 0:
        return network.logits(*model, images).argmax(-1)

    def add_votes(i: Array, counts: Array) -> Array:
        # The same copies at every evaluation: an accuracy should not flicker.
        noise = jax.random.normal(jax.random.key(i), model.params.shape)
        params = model.params + noise_sigma * noise
        logits = network.logits(params, model.buffers, images)
        return counts + jax.nn.one_hot(logits.argmax(-1), counts.shape[1])

    outputs = jax.eval_shape(network.logits, *model, images).shape[-1]
    counts = jnp.zeros((len(images), outputs))
    return lax.fori_loop(0, num_votes, add_votes, counts).argmax(-1)


ENTRY = Entry(
    crfl,
    paper="Xie et al., ICML 2021",
    weighs=True,
)
