"""FLIP: benign clients invert triggers and train the model to ignore them.

K. Zhang et al., "FLIP: A Provable Defense Framework for Backdoor Mitigation in
Federated Learning", ICLR 2023, in the form of DROP's code. Benign clients stamp the
smallest trigger they find on some images and keep the true labels
(`simplified` or `coded`); the server averages; at prediction the model refuses
to answer when it is not sure.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedjax_sim.contracts.client import ClientSide, ClientTraining, MemoryGradientFn
from fedjax_sim.contracts.dataset import Normalization
from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import FederationSpec, GlobalModel
from fedjax_sim.contracts.model import Network
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Natural, Traced, checked, gather
from fedjax_sim.defenses.flip.batch import FLIPSettings
from fedjax_sim.defenses.flip.coded import coded_epoch, coded_memory
from fedjax_sim.defenses.flip.simplified import simplified_epoch, simplified_memory
from fedjax_sim.defenses.parts.pipeline import pipeline

PyTree = Any
Variant = Literal["simplified", "authors"]


@checked("defense")
def flip(
    *,
    variant: Variant = "simplified",
    start_round: Count = 10,
    steps: Count | None = None,
    steps_again: Count | None = None,
    size_min: Natural = 5,
    success: Traced[Fraction] = 0.85,
    max_size: Traced[Fraction] = 0.25,
    portion: Traced[Fraction] = 0.9,
    confidence: Traced[Fraction] | None = 0.4,
    corner_block: bool = False,
) -> Defense:
    """Returns FLIP; the defaults are those of CIFAR-10 but for the numbers of steps.

    Args:
      variant: `simplified` for accelerators, or the clients' epoch as DROP's `authors`
        have it, at several times the cost; see `coded`.
      start_round: first round, from 1, in which clients do more than train.
      steps: of an inversion (None: 100); with `authors` of those of the warm-up (None:
        600), while the others have their coded numbers, 200, 100 and 50.
      steps_again: of an inversion for the second batch of a pair (None: 50); not with
        `authors`.
      size_min: images a class needs in a batch.
      success: share of images a trigger must turn.
      max_size: largest trigger in use, as a share of H W C.
      portion: share of a class's images that get the trigger.
      confidence: the model refuses to answer below it; None always answers.
      corner_block: the warm-up's masks begin with a bright block of 5 x 14 pixels in
        the corner (the authors' code, but for EMNIST).

    Raises:
      InputError: an option outside its range, or steps_again with `authors`.
    """
    coded = variant == "authors"
    if coded and steps_again is not None:
        raise InputError(
            f"config.defense.steps_again = {steps_again} must be none: "
            "config.defense.variant = 'authors' has steps of its own"
        )
    steps = steps or (600 if coded else 100)
    steps_again = steps_again or 50
    settings = gather(FLIPSettings, locals())

    def memory(spec: FederationSpec) -> PyTree:
        make = coded_memory if coded else simplified_memory
        one = make(spec.network)
        return jax.tree.map(
            lambda x: jnp.zeros((spec.population, *x.shape), x.dtype), one
        )

    def gradient(network: Network, normalization: Normalization) -> MemoryGradientFn:
        epoch = coded_epoch if coded else simplified_epoch
        return epoch(settings, network, normalization)

    def predict(
        state: PyTree, model: GlobalModel, network: Network, images: Array
    ) -> Array:
        del state
        logits = network.logits(*model, images)
        assert confidence is not None  # else the usual answer is taken, see below
        sure = jax.nn.softmax(logits).max(-1) > confidence
        return jnp.where(sure, logits.argmax(-1), -1)

    return pipeline(
        client_side=ClientSide(training=ClientTraining(memory, gradient)),
        predict=None if confidence is None else predict,
    )


ENTRY = Entry(
    flip,
    paper="K. Zhang et al., ICLR 2023",
    weighs=True,
)
