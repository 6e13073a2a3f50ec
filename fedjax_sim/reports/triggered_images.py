"""What a backdoor shows: clean test images, those with its trigger, the difference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from fedjax_sim.contracts.attack import Attack, AttackSpec, BackdoorTest
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.dataset import Dataset, Partition, Trigger
from fedjax_sim.core.errors import InputError
from fedjax_sim.data.normalize import denormalize, normalization, normalize
from fedjax_sim.data.triggers import stamp
from fedjax_sim.experiment.config import TABLES, resolve
from fedjax_sim.experiment.data import load_data
from fedjax_sim.experiment.sides import with_factor
from fedjax_sim.experiment.trained import network_of, newest_arrays
from fedjax_sim.reports.figures import svg
from fedjax_sim.reports.store import Row
from fedjax_sim.runs.files import read_json

PyTree = Any
Arrays = Mapping[str, np.ndarray]  # of a checkpoint, by path

_IMAGES = 3  # of each attack, side by side
_ATTACKS = 6  # one below the other
_PARTS = ("clean", "stamped", "difference")


def triggered_images(runs: Sequence[Row], results: Path) -> bytes | None:
    """Draws the triggers of the backdoors of some runs, each kind once.

    A trigger that moves over the rounds (A3FL) is drawn as it is in the newest
    checkpoint of the first such run, or, where that has none, before the first round.
    What cannot be drawn because its data is not at hand is named on the terminal.

    Args:
      runs: of the table `runs`.
      results: folder of the run directories.

    Returns:
      SVG; None if none of the runs has a backdoor with a trigger.
    """
    rows: dict[str, np.ndarray] = {}
    looked_at = set()
    for run in runs:
        kind = tuple(run.get(k) for k in ("attack_name", "attack_trigger", "data_name"))
        if kind in looked_at or len(rows) == _ATTACKS:
            continue
        looked_at.add(kind)
        try:
            config = resolve(read_json(results / run["run"] / "config.json"))
            if not _may_stamp(config):  # without reading the data
                continue
            name = ", ".join(str(part) for part in kind if part is not None)
            arrays = None
            if moves(config):
                arrays, when = _newest(results / run["run"])
                name += f", {when}"
            shown = pictures(config, load_data(config), arrays)
        except InputError as error:  # data, or a rule from elsewhere, is not at hand
            print(f"no picture of the trigger of {run['run']}: {error}")
            continue
        if shown is not None:
            rows[name] = shown
    return _drawn(rows) if rows else None


def _newest(run: Path) -> tuple[Arrays | None, str]:
    """A run's newest checkpoint, and of when its trigger is."""
    try:
        at, arrays = newest_arrays(run)
    except InputError as error:
        print(f"the trigger of {run.name} is drawn as it begins: {error}")
        return None, "before the first round"
    return arrays, f"after round {at} of {run.name}"


def _may_stamp(config: Config) -> bool:
    entry = TABLES["attack"].find(config.attack.name)
    return "target_class" in entry.options and config.data.name != "arrays"


class Backdoor(NamedTuple):
    """A trigger, and who is to be taken for whom."""

    trigger: Trigger
    target: int  # class
    victim: int | None  # class; None: every other one


def moves(config: Config) -> bool:
    """Whether the trigger of a config changes from round to round."""
    return _may_stamp(config) and _attack(config).triggers is not None


def _attack(config: Config) -> Attack:
    made = TABLES["attack"].find(config.attack.name).factory(**config.attack.options)
    return with_factor(config, made)


def backdoor_of(
    config: Config, dataset: Dataset, arrays: Arrays | None = None
) -> Backdoor | None:
    """Returns the backdoor of a config; None without a trigger.

    Args:
      config: of a run.
      dataset: its data.
      arrays: of a checkpoint, for a trigger that moves; without them it is that before
        the first round.

    Raises:
      InputError: the checkpoint holds no state of this attack.
    """
    if not _may_stamp(config):
        return None
    attack = _attack(config)
    if attack.test is None:
        return None
    images, labels = dataset.test_images, dataset.test_labels
    shape = images.shape[1:]
    everything = np.arange(len(dataset.train_labels), dtype=np.int32)
    spec = AttackSpec(
        labels=dataset.train_labels,
        partition=Partition(everything[None], np.array([len(everything)], np.int32)),
        malicious_ids=np.zeros(1, np.int32),
        num_classes=dataset.num_classes,
        image_shape=shape,
        normalization=normalization(config.data.normalization, shape[-1]),
        layout=network_of(config, shape, dataset.num_classes, "cpu").layout,
        test_images=images,
        test_labels=labels,
    )
    test: BackdoorTest = attack.test(spec)
    trigger = test.trigger
    if attack.triggers is not None:
        first = attack.triggers(_state(attack.init(spec), arrays))
        trigger = jax.tree.map(lambda x: x[0], first)
    if trigger is None or test.target_class is None:
        return None
    return Backdoor(trigger, test.target_class, test.victim_class)


def _state(first: PyTree, arrays: Arrays | None) -> PyTree:
    """The state of an attack in a checkpoint; that before the first round without."""
    if arrays is None:
        return first
    paths, structure = jax.tree_util.tree_flatten_with_path(first)
    leaves = []
    for path, leaf in paths:
        name = f"[0].attack{jax.tree_util.keystr(path)}"
        found = arrays.get(name)
        if found is None or found.shape != np.shape(leaf):
            raise InputError(f"the checkpoint holds no {name} {list(np.shape(leaf))}")
        leaves.append(jnp.asarray(found))
    return jax.tree.unflatten(structure, leaves)


def pictures(
    config: Config, dataset: Dataset, arrays: Arrays | None = None
) -> np.ndarray | None:
    """Returns pixels f32 [k, 3, H, W, C] in [0, 1]: clean, stamped, difference.

    The difference is amplified so that its largest is 1. None without a trigger. See
    `backdoor_of` for the arguments and errors.
    """
    backdoor = backdoor_of(config, dataset, arrays)
    if backdoor is None:
        return None
    images, labels = dataset.test_images, dataset.test_labels
    of_images = normalization(config.data.normalization, images.shape[-1])
    victims = labels != backdoor.target
    if backdoor.victim is not None:
        victims = labels == backdoor.victim
    chosen = normalize(jnp.asarray(images[victims][:_IMAGES]), of_images)
    stamped = stamp(chosen, backdoor.trigger, jnp.ones(len(chosen), bool))
    pair = [np.asarray(denormalize(x, of_images)) for x in (chosen, stamped)]
    apart = np.abs(pair[1] - pair[0])
    apart /= max(float(apart.max()), 1e-6)
    return np.stack([*pair, apart], axis=1).clip(0, 1)


def _drawn(rows: dict[str, np.ndarray]) -> bytes:
    width = _IMAGES * len(_PARTS)
    size = (0.95 * width, 1.25 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (name, shown) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, fontsize=8, loc="left")
        for axis, picture in zip(
            line, shown.reshape(-1, *shown.shape[2:]), strict=False
        ):
            grey = picture.shape[-1] != 3
            axis.imshow(
                picture[..., 0] if grey else picture,
                cmap="gray" if grey else None,
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
    figure.supxlabel(
        f"{len(_PARTS)} pictures of each image: {', '.join(_PARTS)} (amplified)",
        fontsize=8,
    )
    return svg(figure)
