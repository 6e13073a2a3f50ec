"""FLAME: clustering, clipping and noise.

Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022,
Algorithm 1. The variant `authors` is what the released code of DROP computes under
that name (Syros et al. 2025, arXiv 2502.07011).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    After,
    Cohort,
    Defense,
    RoundContext,
    Stage,
    included,
    with_score,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.options import NonNegative, Traced, checked
from fedjax_sim.defenses.parts.building import stateless
from fedjax_sim.defenses.parts.clipping import (
    ClipFactors,
    clip_factors,
    median_norm,
    shorten,
    times,
)
from fedjax_sim.defenses.parts.majority_component import Features, majority_component
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.numerics.distances import LARGEST, finite, row_lengths, row_norms

Variant = Literal["paper", "authors"]


@checked("defense")
def flame(
    *,
    variant: Variant = "paper",
    features: Features = "models",
    noise_sigma: Traced[NonNegative] = 0.001,
) -> Defense:
    """Returns FLAME: the mean of the clipped updates of the majority, and noise.

    The bound S is a median of update norms, score `clip_bound` f32 [n] (the same for
    all), and the factors min(1, S / norm) are the score `clip_factor`.

    Args:
      variant: `paper` takes the median over all clients, shortens updates and adds
        noise of standard deviation noise_sigma * S to the parameters. `authors`
        clusters the rows of the distance matrix, takes the median over the admitted
        clients, multiplies their whole *models* by the factors, and adds noise of
        standard deviation (noise_sigma * S)^2 to parameters and buffers.
      features: what is clustered; `updates` is an option of other implementations.
      noise_sigma: lambda of the paper, the noise in lengths of S.

    Raises:
      InputError: an option outside its range.
    """
    if variant == "paper":
        return pipeline(
            median_bound(),
            majority_component(features=features),
            shorten_updates(),
            after=gaussian_noise(lambda bound: noise_sigma * bound),
        )
    return pipeline(
        majority_component(features=features, compare_rows=True),
        median_bound(),
        shrink_models(),
        after=gaussian_noise(lambda bound: (noise_sigma * bound) ** 2, buffers=True),
    )


def median_bound() -> Stage:
    """Adds the median norm of the clients that count here as `clip_bound`."""

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        bound = median_norm(row_norms(cohort.updates), included(cohort))
        return with_score(cohort, "clip_bound", jnp.full(len(cohort.weights), bound))

    return stateless(judge)


def shorten_updates() -> Stage:
    """Shortens the updates to `clip_bound`."""

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        del context
        return shorten(cohort, _factors(cohort))

    return stateless(judge)


def shrink_models() -> Stage:
    """Multiplies whole models, buffers included, where updates exceed the bound."""

    def judge(cohort: Cohort, context: RoundContext) -> Cohort:
        factors = _factors(cohort)
        start = context.global_params[None]
        cohort = cohort._replace(
            updates=times(factors, start + cohort.updates) - start,
            buffers=times(factors, cohort.buffers),
        )
        return with_score(cohort, "clip_factor", factors.value)

    return stateless(judge)


def gaussian_noise(
    deviation: Callable[[Array], Array], *, buffers: bool = False
) -> After:
    """Returns the step that adds noise to the new global model.

    Args:
      deviation: gives its standard deviation for the bound f32 [].
      buffers: the running statistics get noise too.
    """

    def apply(
        state: tuple[()], model: GlobalModel, cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], GlobalModel]:
        # Of a majority of updates near the end of float32, too, the noise is a number.
        std = jnp.minimum(deviation(cohort.scores["clip_bound"][0]), LARGEST / 64)
        keys = jax.random.split(context.key)
        noise = [
            std * jax.random.normal(key, x.shape)
            for key, x in zip(keys, model, strict=True)
        ]
        noisy = GlobalModel(*(finite(x + z) for x, z in zip(model, noise, strict=True)))
        return state, noisy if buffers else noisy._replace(buffers=model.buffers)

    return After(lambda spec: (), apply)


def _factors(cohort: Cohort) -> ClipFactors:
    return clip_factors(row_lengths(cohort.updates), cohort.scores["clip_bound"])


ENTRY = Entry(
    flame,
    paper="Nguyen et al., USENIX Security 2022",
    weighs=True,
)
