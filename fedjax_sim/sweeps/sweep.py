"""A sweep: a base config and the points at which it runs.

A sweep file defines `get_sweep()`:

    def get_sweep() -> Sweep:
        return Sweep(
            base="configs/drop/cifar10.py",
            points=product(
                {":defense": ["fedavg", "droplet"], ":dpr": [1.25, 2.5, 5.0]},
                zipped({"client.lr": [0.05, 0.1], "client.batch_size": [128, 256]}),
                seeds(3),
            ),
        )

A point maps config keys to values. A key that starts with a colon is an argument of the
config file (`--config=FILE:defense=droplet`), and `base` is a config of the point's own
in place of the sweep's. A value may be a group of keys:
`{"defense": {"name": "flip", "steps": 20}}`. Points are plain lists of mappings, so
`+` joins two grids and a comprehension drops what is not wanted.
"""

import hashlib
import importlib.util
import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product as cartesian
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import flatten, to_dict
from fedjax_sim.experiment.config_files import (
    configs_folder,
    load_file,
    parse_value,
    resolve_variants,
)
from fedjax_sim.runs.files import plain

Point = Mapping[str, Any]

# What does not change the numbers of a run: where the data lies, how it is recorded.
NOT_IDENTITY = (
    "checkpoint",
    "log",
    "data.data_dir",
    "execution.compilation_cache",
)
# Keys that came later: left as they are they are not in a run's name, which stays the
# same.
_ADDED: dict[str, Any] = {
    "model.init": None,
    "partition.min_samples": None,
    "partition.max_redraws": None,
    "defense.before": [],
    "defense.weights": "uniform",
    "defense.tau_b": None,
    "defense.clustering": True,
    "defense.monitoring": True,
    "defense.num_images": None,
    "defense.observe": False,
    "attack.plus_model": False,
    "attack.adapt": "none",
    "attack.adapt_share": 0.5,
    "attack.adapt_trials": 8,
    "attack.adapt_largest": None,
    "attack.adapt_knows": "benign",
    "attack.rest_above": None,
    "participation.rounding": "exact",
}


class Sweep(NamedTuple):
    """What `get_sweep()` returns."""

    base: str | Mapping[str, Any]  # FILE[:ARGUMENTS] of a config, or its keys
    points: Sequence[Point] = ({},)
    # Keeps a run? Takes {"section.key": value} of the resolved config and, as
    # ":argument", the arguments of the config file.
    where: Callable[[dict[str, Any]], bool] | None = None
    together: str = "auto"  # how, where --together does not say


class Run(NamedTuple):
    """One run of a sweep."""

    name: str  # in which keys it differs from the others
    folder: str  # of its results; a function of the resolved config alone
    config: Config
    values: dict[str, Any]  # what `Sweep.where` is given


def product(*parts: Sequence[Point] | Mapping[str, Iterable[Any]]) -> list[Point]:
    """Returns every combination; `{key: values}` is a product of its keys."""
    axes: list[Sequence[Point]] = []
    for part in parts:
        if isinstance(part, Mapping):
            axes += [[{key: v} for v in values] for key, values in part.items()]
        else:
            axes.append(part)
    return [
        {key: value for point in points for key, value in point.items()}
        for points in cartesian(*axes)
    ]


def zipped(columns: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns points in which the keys advance together.

    Raises:
      InputError: the keys have different numbers of values.
    """
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"zipped({lengths}): all keys need equally many values")
    return [
        dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]


def seeds(count: int, first: int = 0) -> list[Point]:
    """Returns points with seeds `first`, `first + 1`, ..."""
    return [{"seed": first + i} for i in range(count)]


def load_sweep(path: str) -> Sweep:
    """Calls `get_sweep()` of a Python file.

    Raises:
      InputError: no such file, or it fails, or it returns something else.
    """
    ours = configs_folder() / "sweeps" / f"{path}.py"
    if not Path(path).exists() and ours.is_file():  # one of ours by name
        path = str(ours)
    if not Path(path).is_file() or not path.endswith(".py"):
        raise InputError(f"--sweep={path}: a Python file (.py) is expected there")
    spec = importlib.util.spec_from_file_location("fedjax_sim_sweep_file", path)
    assert spec is not None and spec.loader is not None  # of any .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        sweep = module.get_sweep()
    except InputError as error:
        raise InputError(f"--sweep={path}: {error}") from None
    except SyntaxError as error:
        raise InputError(
            f"--sweep={path}: line {error.lineno} is not Python ({error.msg})"
        ) from None
    except Exception as error:  # the user's file may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        where = f"line {lines[-1]}: " if lines else ""
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"--sweep={path}: {where}{type(error).__name__}: {reason}"
        ) from None
    if not isinstance(sweep, Sweep):
        raise InputError(
            f"--sweep={path}: get_sweep() returned a {type(sweep).__name__}, a Sweep "
            "is needed"
        )
    return sweep


def expand(
    sweep: Sweep, changes: Mapping[str, Any] | None = None, only: Sequence[str] = ()
) -> list[Run]:
    """Returns the runs of a sweep; of runs with equal configs, the first.

    Args:
      sweep: what to run.
      changes: {"section.key": value}, for all runs.
      only: filters "key=value" or "key=value,value"; a run must pass all of them.

    Raises:
      InputError: a config that does not resolve, a filter on a key that no run has,
        or nothing left to run.
    """
    points = [flatten(point) for point in sweep.points]
    varying = _varying(points)
    filters = [_parse_filter(text) for text in only]
    runs: dict[str, Run] = {}
    known: set[str] = set()
    for point in points:
        base = point.get("base", sweep.base)
        for variant, config in _resolve(base, point, changes or {}).items():
            values = flatten(to_dict(config))
            values |= {k: v for k, v in point.items() if k.startswith(":")}
            known |= values.keys()
            if sweep.where is not None and not sweep.where(dict(values)):
                continue
            if not all(values.get(k, ...) in allowed for k, allowed in filters):
                continue
            named = [k for k in varying if k in point and k not in (changes or {})]
            parts = [str(point[k]) if k == "base" else f"{k}={point[k]}" for k in named]
            name = ",".join([variant] * bool(variant) + parts)
            run = Run(name or config.defense.name, folder_name(config), config, values)
            runs.setdefault(run.folder, run)
    for key, _ in filters:
        if key not in known:
            hint = did_you_mean(key, known)
            raise InputError(f"--only={key}=...: no run has such a key; {hint}")
    if not runs:
        raise InputError("the sweep has no runs: its points or filters leave none")
    return list(runs.values())


def folder_name(config: Config) -> str:
    """The stable identifier of a run: readable parts and a hash of its config."""
    values = {
        key: value
        for key, value in flatten(plain(to_dict(config))).items()
        if key not in NOT_IDENTITY
        and key.partition(".")[0] not in NOT_IDENTITY
        and not (key in _ADDED and value == _ADDED[key])
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    parts = (config.defense.name, config.attack.name, f"seed{config.seed}", digest[:10])
    return "-".join(parts).replace(":", ".")  # of MODULE:FACTORY


def _varying(points: Sequence[Point]) -> list[str]:
    """The keys that name a run: those with more than one value."""
    seen: dict[str, list[Any]] = {}
    for point in points:
        for key, value in point.items():
            if value not in seen.setdefault(key, []):
                seen[key].append(value)
    return [key for key, values in seen.items() if len(values) > 1]


def _resolve(base, point: Point, changes: Mapping[str, Any]) -> dict[str, Config]:
    arguments = ",".join(
        f"{key[1:]}={value}" for key, value in point.items() if key.startswith(":")
    )
    if isinstance(base, str):
        path, _, given = base.partition(":")
        # The last of two arguments with one name counts.
        text = ",".join(filter(None, (given, arguments)))
        base = load_file(f"{path}:{text}")
    elif arguments:
        raise InputError(
            f"the sweep sets the argument ':{arguments}', but its base is no file"
        )
    own = {k: v for k, v in point.items() if not k.startswith(":") and k != "base"}
    return resolve_variants(base, {**own, **changes})


def _parse_filter(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--only={text}: KEY=VALUE or KEY=VALUE,VALUE is expected")
    return key, [parse_value(value) for value in values.split(",")]
