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
    FederationSpec,
    RoundContext,
    Stage,
    exclude,
    filtered,
    included,
    with_score,
)
from fedjax_sim.core.errors import InputError
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
from fedjax_sim.defenses.parts.checks import check_choice
from fedjax_sim.defenses.parts.reconstruction import (
    Knowledge,
    Mode,
    Reconstruction,
    ReconstructionState,
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


def reconstruction_filter(settings: Reconstruction) -> Stage:
    """Returns the stage that expels clients of large reconstruction error for good.

    Adds the scores `reconstruction_error` and `iterations` (outer ones, for AOI).
    A client whose error is not a number is expelled too, and so is one whose update
    is not finite. (As coded, a NaN let everybody else pass.)
    """
    s = settings

    def init(spec: FederationSpec) -> ReconstructionState:
        network = spec.network
        if spec.num_buffers:
            raise InputError(
                "config.defense.name = 'fedredefense' needs a model without batch "
                f"statistics; config.model.name = {network.model.name!r} has "
                f"{spec.num_buffers} of them"
            )
        count = s.images_per_class * network.num_classes
        # All clients begin with the same noise.
        start = Knowledge(
            jax.random.normal(spec.key, (count, *network.image_shape)),
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
        cohort = with_score(cohort, "iterations", found.count)
        return state, exclude(cohort, flagged | state.expelled[ids])

    return Stage(init, apply)


def fedredefense(
    *,
    threshold: float = 0.6,
    first_limit: int = 800,
    later_limit: int = 2000,
    mode: Mode = "dynamic",
    interval: int = 10,
    lr_images: float = 0.5,
    lr_labels: float = 0.2,
    lr_rate: float = 5e-6,
    initial_rate: float = 0.1,
    inner_steps: int = 5,
    images_per_class: int = 1,
    stack: int | None = None,
    base: Base = "fedavg",
) -> Defense:
    """Returns FedREDefense; the defaults are FashionMNIST's.

    CIFAR-10: lr_images 0.1, lr_labels 0.05, initial_rate 0.05, lr_rate 5e-5, limits 500
    and 1500; CINIC-10 the same with limits 2000 and 4000 (Table 7). The paper
    multiplies `later_limit` by 2 for two local epochs and by 5 for five.

    Args: see `fedjax_sim.reconstruction.Reconstruction`; and
      base: what aggregates the clients that remain, under its own defaults;
        `median_lower` and `norm_bound_oracle` are the forms of the paper's code and of
        its Table 3.

    Raises:
      InputError: a number outside its range, or a model with batch statistics.
    """
    check_choice("mode", mode, Mode)
    check_choice("base", base, Base)
    for key, value, least in (
        ("first_limit", first_limit, 0),
        ("later_limit", later_limit, 0),
        ("interval", interval, 1),
        ("inner_steps", inner_steps, 1),
        ("images_per_class", images_per_class, 1),
        ("stack", stack, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"config.defense.{key} = {value} must be at least {least}")
    for key, value in (
        ("threshold", threshold),
        ("lr_images", lr_images),
        ("lr_labels", lr_labels),
        ("lr_rate", lr_rate),
        ("initial_rate", initial_rate),
    ):
        if isinstance(value, int | float) and not value > 0:
            raise InputError(f"config.defense.{key} = {value} must be positive")
    settings = Reconstruction(
        threshold=threshold,
        first_limit=first_limit,
        later_limit=later_limit,
        mode=mode,
        interval=interval,
        lr_images=lr_images,
        lr_labels=lr_labels,
        lr_rate=lr_rate,
        initial_rate=initial_rate,
        inner_steps=inner_steps,
        images_per_class=images_per_class,
        stack=stack,
    )
    return filtered(
        reconstruction_filter(settings),
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
