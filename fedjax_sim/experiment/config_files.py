"""Config files: what they return, what stands behind their colon, what flags change."""

import ast
import importlib.util
import inspect
from collections.abc import Mapping
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import flatten, override, resolve


def configs_folder() -> Path:
    """The folder of the configs that come with the package."""
    return Path(str(resources.files("fedjax_sim.configs")))


def find_file(name: str) -> str:
    """Returns the path of a config: a file, or one of ours by name.

    Args:
      name: a path, or below our configs, with or without `.py`: `quickstart`,
        `drop/cifar10`, `configs/drop/cifar10.py`.

    Raises:
      InputError: there is none.
    """
    if Path(name).is_file():
        return name
    folder = configs_folder()
    inside = name.removeprefix("configs/").removesuffix(".py")
    if (folder / f"{inside}.py").is_file():
        return str(folder / f"{inside}.py")
    ours = [
        str(path.relative_to(folder).with_suffix(""))
        for path in folder.rglob("*.py")
        if path.parent.name != "sweeps" and path.name != "__init__.py"
    ]
    raise InputError(
        f"--config={name}: there is no such file, nor a config of that name; "
        f"{did_you_mean(inside, ours)}"
    )


def load_file(path: str) -> dict[str, Any]:
    """Runs `get_config()` of a config file; `path:TEXT` calls `get_config("TEXT")`.

    Returns:
      The config it returns, as plain groups.

    Raises:
      InputError: no such file, no `get_config`, an argument it does not take, an error
        inside, or something else than a config.
    """
    name, _, argument = path.partition(":")
    path = find_file(name)
    spec = importlib.util.spec_from_file_location("fedjax_sim_config_file", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config={path}: a Python file (.py) is needed")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "get_config", None)
        if not callable(make):
            raise InputError(f"--config={path}: the file defines no get_config()")
        takes_argument = bool(inspect.signature(make).parameters)
        if argument and not takes_argument:
            raise InputError(f"--config={path}: get_config() takes no ':{argument}'")
        config = make(argument) if takes_argument else make()
    except SyntaxError as error:
        raise InputError(
            f"--config={path}: line {error.lineno} is not Python ({error.msg})"
        ) from None
    except InputError:
        raise
    except Exception as error:  # whatever the user's file does
        what = " ".join(str(error).split())
        raise InputError(f"--config={path}: {type(error).__name__}: {what}") from error
    if isinstance(config, ConfigDict):
        return _as_written(config)
    if isinstance(config, Mapping):
        return dict(config)
    raise InputError(
        f"--config={path}: get_config() returned {config!r}, not a ConfigDict"
    )


def _as_written(config: ConfigDict) -> dict[str, Any]:
    """The groups of a config; its variants in the order in which they were written.

    A ConfigDict sorts its keys when it is asked for them, and has no public way to the
    order in which it got them.
    """
    values = config.to_dict()
    variants = config.get("variants")
    if isinstance(variants, ConfigDict):
        written = vars(variants)["_fields"]
        values["variants"] = {name: values["variants"][name] for name in written}
    return values


def file_arguments(text: str, **defaults: Any) -> dict[str, Any]:
    """Reads `key=value,key=value`, the text behind the colon of `--config=FILE:TEXT`.

    Args:
      text: what `get_config` was given; may be empty.
      **defaults: the keys a file knows, with their defaults; a value is read as the
        type of its default.

    Raises:
      InputError: an unknown key or an ill-typed value.
    """
    values = dict(defaults)
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in defaults:
            raise InputError(
                f"--config=...:{key} is not a key of this file; "
                f"{did_you_mean(key, defaults)}"
            )
        kind = type(defaults[key])
        try:
            read = kind(value) if kind is not bool else parse_value(value)
            if not isinstance(read, kind) or (kind is float and not isfinite(read)):
                raise ValueError(value)
            values[key] = read
        except ValueError:
            raise InputError(
                f"--config=...:{key}={value}: a value of type {kind.__name__} is needed"
            ) from None
    return values


def choose(key: str, name: str, table: Mapping[str, Any]) -> Any:
    """Returns the entry of a table that a file argument names.

    Raises:
      InputError: there is no such entry.
    """
    if name not in table:
        raise InputError(
            f"--config=...:{key}={name} does not exist; {did_you_mean(name, table)}"
        )
    return table[name]


def belongs_to(given: Mapping[str, Any], key: str, owner: str, *allowed: str) -> None:
    """Refuses a file argument that what another one names has no use for.

    Args:
      given: all arguments of the file.
      key: the argument; left empty or 0 it is not given.
      owner: the other one.
      *allowed: its values that `key` belongs to.

    Raises:
      InputError: `key` is given, and `owner` is none of `allowed`.
    """
    if given[key] and given[owner] not in allowed:
        raise InputError(
            f"--config=...:{key}={given[key]} does not belong to "
            f"{owner}={given[owner]}; allowed with: {', '.join(allowed)}"
        )


def parse_value(text: str) -> Any:
    """Reads a flag's value: a Python literal, true/false, or else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def resolve_variants(
    base: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Config]:
    """Returns the runs of a config by name.

    A config may hold `variants`: name -> group of keys that differ; each is a run of
    its own. Without, or where the changes leave no difference, there is one run with an
    empty name.

    Raises:
      InputError: a wrong config, or a change that makes some of the variants equal and
        not all.
    """
    base = dict(base)
    variants = base.pop("variants", None) or {"": {}}
    if not isinstance(variants, Mapping) or not all(
        isinstance(own, Mapping) for own in variants.values()
    ):
        raise InputError(
            f"config.variants = {variants!r} must be groups of keys by the run's name"
        )
    runs = {
        name: resolve(override(override(base, flatten(own)), changes))
        for name, own in variants.items()
    }
    distinct: list[Config] = []
    for config in runs.values():
        if config not in distinct:
            distinct.append(config)
    if len(runs) > 1 and len(distinct) == 1:
        return {"": distinct[0]}
    if len(distinct) < len(runs):
        keys = {key for own in variants.values() for key in flatten(own)}
        changed = sorted(keys & {*changes}) or sorted(changes)
        raise InputError(
            f"config.{changed[0]} = {changes[changed[0]]!r}: the variants "
            f"{', '.join(runs)} of this config would not all differ any more"
        )
    return runs
