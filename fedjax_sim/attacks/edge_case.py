"""Edge cases: rare images of the user's, with a label that the attacker wants."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_sim.attacks.parts.options import active_rounds, require_classes
from fedjax_sim.contracts.attack import (
    Attack,
    AttackSpec,
    BackdoorTest,
    Poison,
    PoisonDecision,
)
from fedjax_sim.contracts.dataset import Partition, Trigger
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import Count, Fraction, Natural, Seed, checked
from fedjax_sim.data.normalize import normalize


@checked("attack")
def edge_case(
    *,
    path: str = "",
    ratio: Fraction = 0.8,
    target_class: Natural = 7,
    seed: Seed = 0,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Attackers train on edge-case images with the target's label, and on a few others.

    Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos, "Attack
    of the Tails: Yes, You Really Can Backdoor Federated Learning", NeurIPS 2020;
    semantic backdoors (Bagdasaryan et al., AISTATS 2020) are the same with other
    images. Of v samples a client replaces p = min(floor(ratio v), images there are) by
    images drawn without replacement, keeps floor(p / ratio - p) clean ones and leaves
    the others out (counts as in FLPoison). Success is the share of the file's test
    images that are taken for the target.

    Args:
      path: an .npz file with `train` and `test`, u8 [., H, W, C], of the shape of the
        data's images.
      ratio: share of edge cases in an attacker's data.
      target_class: the label that they get.
      seed: of the draw of images.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends. Outside the window the few samples are clean.

    Raises:
      InputError: an option outside its range, a file that cannot be read or holds other
        images, a class outside the data set, an empty window.
    """

    def poison(spec: AttackSpec) -> Poison:
        require_classes(spec, target_class=target_class)
        images = edge_images(path, spec.image_shape).train
        value = normalize(jnp.asarray(images), spec.normalization)
        rng = np.random.default_rng(seed)
        which = np.full(len(spec.labels), -1, np.int32)
        for client in np.sort(spec.malicious_ids):
            count = int(spec.partition.counts[client])
            poisoned, _ = edge_counts(count, ratio, len(images))
            own = spec.partition.indices[client, :poisoned]
            which[own] = rng.choice(len(images), poisoned, replace=False)

        def decide(plan, sample_ids, labels, context):
            image = plan[sample_ids]
            poisoned = (image >= 0) & context.malicious
            labels = jnp.where(poisoned, target_class, labels)
            return PoisonDecision(poisoned, labels, jnp.maximum(image, 0))

        return Poison(Trigger(jnp.ones(value.shape, bool), value), which, decide)

    def repartition(spec: AttackSpec) -> Partition:
        available = len(edge_images(path, spec.image_shape).train)
        counts = spec.partition.counts.copy()
        for client in spec.malicious_ids:
            total = int(counts[client])
            counts[client] = min(sum(edge_counts(total, ratio, available)), total)
        return spec.partition._replace(counts=counts)

    def test(spec: AttackSpec) -> BackdoorTest:
        require_classes(spec, target_class=target_class)
        images = edge_images(path, spec.image_shape).test
        wanted = np.full(len(images), target_class, np.int32)
        return BackdoorTest(None, None, None, (images, wanted))

    return Attack(
        knowledge=("own_data",),
        active=active_rounds(start_round, end_round),
        poison=poison,
        repartition=repartition,
        test=test,
    )


def edge_counts(total: int, ratio: float, available: int) -> tuple[int, int]:
    """Returns how many edge cases and how many clean samples an attacker has.

    Args:
      total: samples of the client.
      ratio: share of edge cases wanted.
      available: edge cases there are.
    """
    poisoned = min(math.floor(total * ratio), available)
    return poisoned, math.floor(poisoned / ratio - poisoned) if ratio > 0 else total


class EdgeImages(NamedTuple):
    """What a file of edge cases holds."""

    train: np.ndarray  # u8 [., H, W, C]
    test: np.ndarray  # u8 [., H, W, C]


@cache
def edge_images(path: str, shape: tuple[int, int, int]) -> EdgeImages:
    """Reads a file of edge cases.

    Raises:
      InputError: it cannot be read, or holds other images.
    """
    if not path:
        raise InputError("config.attack.path must be given: an .npz file of images")
    start = f"config.attack.path = {path!r}"
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            found = {key: file[key] for key in ("train", "test")}
    except KeyError as error:
        raise InputError(f"{start}: it has no array {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no .npz file of arrays"
        raise InputError(f"{start}: {reason}") from None
    for key, images in found.items():
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise InputError(
                f"{start}: {key} is {images.dtype}{list(images.shape)}; allowed: uint8 "
                f"[at least 1, {', '.join(map(str, shape))}], as the data's images"
            )
    return EdgeImages(**found)


ENTRY = Entry(
    edge_case,
    paper="Wang et al., NeurIPS 2020",
)
