"""FedREDefense: expel clients whose updates no small data set could have produced.

Xie, Fang, Gong, "FedREDefense: Defending against Model Poisoning Attacks for Federated
Learning using Model Update Reconstruction Error", ICML 2024.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

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
from fedjax_sim.core.options import Count, Natural, Positive, Traced, checked, gather
from fedjax_sim.defenses.bulyan import bulyan
from fedjax_sim.defenses.clip_avg import clip_avg
from fedjax_sim.defenses.dnc import dnc
from fedjax_sim.defenses.fedavg import fedavg
from fedjax_sim.defenses.flame import flame
from fedjax_sim.defenses.foolsgold import foolsgold
from fedjax_sim.defenses.iqr_filter import iqr_filter
from fedjax_sim.defenses.krum import krum
from fedjax_sim.defenses.median import median
from fedjax_sim.defenses.multikrum import multikrum
from fedjax_sim.defenses.norm_bound import norm_bound
from fedjax_sim.defenses.parts.pipeline import filtered
from fedjax_sim.defenses.parts.reconstruction import (
    DistilledKnowledge,
    Mode,
    Reconstruction,
    ReconstructionState,
    Variant,
    explain,
    suspicious,
)
from fedjax_sim.defenses.prodigy import prodigy
from fedjax_sim.defenses.trimmed_mean import trimmed_mean

Base = Literal[
    "fedavg",
    "median",
    "median_lower",
    "trimmed_mean",
    "norm_bound",
    "norm_bound_oracle",
    "krum",
    "multikrum",
    "bulyan",
    "dnc",
    "flame",
    "foolsgold",
    "prodigy",
    "iqr_filter",
    "clip_avg",
]


def reconstruction_filter(settings: Reconstruction, observe: bool = False) -> Stage:
    """Returns the stage that expels clients of large reconstruction error for good.

    With `observe` it measures and expels nobody.

    Adds the scores `reconstruction_error` and `iterations` (outer ones, for AOI).
    A client whose error is not a number is expelled too, and so is one whose update
    is not finite. (As coded, a NaN let everybody else pass.)
    """
    s = settings

    def init(spec: FederationSpec) -> ReconstructionState:
        network = spec.network
        assert spec.key is not None, "a run gives every rule a key"
        count = s.num_images or s.images_per_class * network.num_classes
        # All clients begin with the same noise.
        noise = {"authors": jax.random.normal, "paper": jax.random.uniform}[s.variant]
        start = DistilledKnowledge(
            noise(spec.key, (count, *network.image_shape)),
            jnp.zeros((count, network.num_classes)),
            jnp.float32(s.initial_rate),
        )
        return ReconstructionState(
            start=start,
            knowledge=jax.tree.map(
                lambda x: jnp.zeros((spec.population, *x.shape)), start
            ),
            seen=jnp.zeros(spec.population, bool),
            expelled=jnp.zeros(spec.population, bool),
        )

    def apply(
        state: ReconstructionState, cohort: Cohort, context: RoundContext
    ) -> tuple[ReconstructionState, Cohort]:
        ids, present = cohort.client_ids, included(cohort)
        found = explain(
            s,
            state,
            cohort.updates,
            ids,
            present,
            round_=context.round,
            params=context.global_params,
            network=context.network,
        )
        flagged = present & suspicious(found.error, s.threshold)
        if "non_finite" in cohort.scores:
            flagged |= cohort.scores["non_finite"]
        if observe:
            flagged = jnp.zeros_like(flagged)
        keep = lambda new, old: jnp.where(
            present.reshape(-1, *[1] * (new.ndim - 1)), new, old[ids]
        )
        state = ReconstructionState(
            start=state.start,
            knowledge=jax.tree.map(
                lambda new, old: old.at[ids].set(keep(new, old)),
                found.knowledge,
                state.knowledge,
            ),
            seen=state.seen.at[ids].set(state.seen[ids] | present),
            expelled=state.expelled.at[ids].set(state.expelled[ids] | flagged),
        )
        cohort = with_score(cohort, "reconstruction_error", found.error)
        cohort = with_score(cohort, "iterations", found.iterations)
        return state, exclude(cohort, flagged | state.expelled[ids])

    return Stage(init, apply)


@checked("defense")
def fedredefense(
    *,
    threshold: Traced[Positive] = 0.6,
    first_limit: Natural = 800,
    later_limit: Natural = 2000,
    mode: Mode = "dynamic",
    interval: Count = 10,
    lr_images: Traced[Positive] = 0.5,
    lr_labels: Traced[Positive] = 0.2,
    lr_rate: Traced[Positive] = 5e-6,
    initial_rate: Traced[Positive] = 0.1,
    inner_steps: Count = 5,
    images_per_class: Count = 1,
    num_images: Count | None = None,
    variant: Variant = "authors",
    observe: bool = False,
    stack: Count | None = None,
    base: Base = "fedavg",
) -> Defense:
    """Returns FedREDefense; the defaults are FashionMNIST's in Table 7.

    CIFAR-10: lr_images 0.1, lr_labels 0.05, initial_rate 0.05, lr_rate 5e-5, limits 500
    and 1500; CINIC-10 the same with limits 2000 and 4000. The paper multiplies
    `later_limit` by 2 for two local epochs and by 5 for five.

    Args:
      threshold: gamma, of stopping and of detection.
      first_limit, later_limit: outer iterations in a client's first participation
        (M_first) and in later ones (M_later).
      mode: `dynamic` stops at the threshold; `continuous` always runs to the limits;
        `intermittent` runs `later_limit` every `interval` rounds and only evaluates in
        between (appendix B.3).
      interval: T_I, of `intermittent`.
      lr_images, lr_labels, lr_rate: learning rates of the outer optimiser.
      initial_rate: a, the inner learning rate to start from.
      inner_steps: S, of the training on the synthetic images.
      images_per_class: synthetic images of a client, for each class.
      num_images: synthetic images of a client in all, in place of that.
      variant: `authors`: an outer momentum of 0.5, normal noise at first, a loss that
        is a mean over classes too, the error before the last update. `paper`, Algorithm
        2 to the letter: plain SGD, uniform noise, cross-entropy, the error after it.
      observe: measures and expels nobody: the errors of all clients in all rounds, for
        the choice of a threshold.
      stack: clients side by side (None: 1 on a CPU, 16 elsewhere).
      base: what aggregates the clients that remain, under its own defaults;
        `median_lower` and `norm_bound_oracle` are the forms of the paper's code and of
        its Table 3.

    Raises:
      InputError: an option outside its range.
    """
    settings = gather(Reconstruction, locals())
    return filtered(
        reconstruction_filter(settings, observe),
        _BASES[base](),
        eligible=_remaining,
        settings=settings,
    )


_BASES: dict[str, Callable[[], Defense]] = {
    "fedavg": fedavg,
    "median": median,
    "median_lower": partial(median, variant="authors"),
    "trimmed_mean": trimmed_mean,
    "norm_bound": norm_bound,
    "norm_bound_oracle": partial(norm_bound, bound="oracle"),
    "krum": krum,
    "multikrum": multikrum,
    "bulyan": bulyan,
    "dnc": dnc,
    "flame": flame,
    "foolsgold": foolsgold,
    "prodigy": prodigy,
    "iqr_filter": iqr_filter,
    "clip_avg": clip_avg,
}


def _remaining(state: Any) -> Array:
    reconstruction, _ = state
    return ~reconstruction.expelled


ENTRY = Entry(
    fedredefense,
    paper="Xie, Fang, Gong, ICML 2024",
    oracle="none, and what its base is told",
    weighs=True,
)
