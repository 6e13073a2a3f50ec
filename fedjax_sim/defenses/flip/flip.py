"""FLIP: benign clients invert triggers and train the model to ignore them.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, in the form of DROP's code. Benign clients stamp the
smallest trigger they find on some images and keep the true labels
(`fedjax_sim.defenses.flip.epoch`); the server averages; at prediction the model refuses
to answer when it is not sure.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.defense import (
    ClientTraining,
    Defense,
    FederationSpec,
    GlobalModel,
    pipeline,
)
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import Normalization
from fedjax_sim.defenses.flip.epoch import (
    FLIPSettings,
    coded_epoch,
    first_memory,
    simplified_epoch,
)
from fedjax_sim.defenses.parts.checks import check_choice, check_range
from fedjax_sim.models import Network

PyTree = Any
Variant = Literal["simplified", "authors"]


def flip(
    *,
    variant: Variant = "simplified",
    start_round: int = 10,
    steps: int | None = None,
    steps_again: int | None = None,
    size_min: int = 5,
    success: float = 0.85,
    max_size: float = 0.25,
    portion: float = 0.9,
    confidence: float | None = 0.4,
    corner_block: bool = False,
) -> Defense:
    """Returns FLIP; the defaults are those of CIFAR-10 but for the numbers of steps.

    Args:
      variant: `simplified` for accelerators, or the clients' epoch as DROP's `authors`
        have it, at several times the cost; see `fedjax_sim.defenses.flip.epoch`.
      start_round: plain training before it.
      steps: of an inversion (None: 100); with `authors` of those of the warm-up (None:
        600), while the others have their coded numbers, 200, 100 and 50.
      steps_again: of an inversion for the second batch of a pair (None: 50); not with
        `authors`.
      size_min: images a class needs in a batch.
      success: share of images a trigger must turn.
      max_size: largest trigger in use, as a share of H W C.
      portion: of a class's images that get the trigger.
      confidence: the model refuses to answer below it; None always answers.
      corner_block: the warm-up's masks begin with a bright block of 5 x 14 pixels in
        the corner (the authors' code, but for EMNIST).

    Raises:
      InputError: for an unknown variant, a number outside its range, or steps_again
        with `authors`.
    """
    check_choice("variant", variant, Variant)
    coded = variant == "authors"
    if coded and steps_again is not None:
        raise InputError(
            f"config.defense.steps_again = {steps_again} must be none: "
            "config.defense.variant = 'authors' has steps of its own"
        )
    check_range("start_round", start_round, 1)
    check_range("steps", steps, 1)
    check_range("steps_again", steps_again, 1)
    check_range("size_min", size_min, 0)
    for key, value in (
        ("success", success),
        ("max_size", max_size),
        ("portion", portion),
    ):
        check_range(key, value, 0, 1)
    check_range("confidence", confidence, 0, 1)
    settings = FLIPSettings(
        start_round=start_round,
        steps=steps or (600 if coded else 100),
        steps_again=steps_again or 50,
        size_min=size_min,
        success=success,
        max_size=max_size,
        portion=portion,
        corner_block=corner_block,
    )

    def init(spec: FederationSpec) -> PyTree:
        one = first_memory(spec.network, coded)
        return jax.tree.map(
            lambda x: jnp.zeros((spec.population, *x.shape), x.dtype), one
        )

    def gradient(network: Network, normalization: Normalization):
        epoch = coded_epoch if coded else simplified_epoch
        return epoch(settings, network, normalization)

    def predict(
        state: PyTree, model: GlobalModel, network: Network, images: Array
    ) -> Array:
        del state
        logits = network.logits(*model, images)
        sure = jax.nn.softmax(logits).max(-1) > confidence
        return jnp.where(sure, logits.argmax(-1), -1)

    average = pipeline()
    return Defense(
        init=lambda spec: (init(spec), average.init(spec)),
        aggregate=_second(average.aggregate),
        after=lambda state, model, cohort, context: (state, model),
        client_training=ClientTraining(
            memory=lambda state: state[0],
            remember=lambda state, memory: (memory, state[1]),
            gradient=gradient,
        ),
        predict=None if confidence is None else predict,
    )


def _second(aggregate):
    """Lets FedAvg keep its state beside the clients' memory."""

    def with_memory(state, cohort, context):
        memory, own = state
        own, cohort, result = aggregate(own, cohort, context)
        return (memory, own), cohort, result

    return with_memory
