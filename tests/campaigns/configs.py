"""Configs drawn from the schema: each is built and traced, or refused in one line.

Most values are drawn from what is allowed, some from beside it; nothing is compiled.
"""

import sys
import typing
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Gt, Le
from campaign import carry_out, require
from helpers import digits
from pydantic import BaseModel

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError
from fedjax_sim.core.options import REQUIRED, Option
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import TABLES, options, resolve

WRONG = [None, "", "text", -1, 0, 1e30, 2**40, float("nan"), [], {"a": 1}, True, 0.5]
# A run of these needs files, or is not for images of 8x8.
BASE = {"data": {"name": "digits", "num_train": 200, "num_test": 60}}
LEFT_ALONE = {"data", "log", "execution.devices", "model.init", "partition.path"}


def trial(number: int, draws: np.random.Generator) -> None:
    """Draws a config and puts it to the library."""
    del number
    values = draw_config(draws)
    try:
        config = resolve(values)
        built = build(config, digits())
        state = jax.eval_shape(built.init, built.inputs)
        after, _ = jax.eval_shape(built.round_step, state, built.inputs)
    except InputError as error:
        line = str(error)
        require("\n" not in line and len(line) < 2000, f"{values}: no line: {line!r}")
        require("config." in line, f"{values}: names no key: {line!r}")
        return
    except MemoryError as error:
        raise AssertionError(f"{values}: {error}") from error
    except Exception as error:
        error.add_note(f"config: {values}")
        raise
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, after)
    ]
    require(shapes[0] == shapes[1], f"{values}: the state changes its shapes")


def draw_config(draws: np.random.Generator) -> dict[str, Any]:
    """A nested mapping: a few sections, a few keys of each."""
    values: dict[str, Any] = {key: dict(own) for key, own in BASE.items()}
    for section, field in Config.model_fields.items():
        if section in LEFT_ALONE or draws.random() < 0.4:
            continue
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            if draws.random() < 0.3:
                values[section] = draw_field(field, draws)
            continue
        own = values.setdefault(section, {})
        for key, inner in kind.model_fields.items():
            skipped = key in ("name", "options") or f"{section}.{key}" in LEFT_ALONE
            if not skipped and draws.random() < 0.3:
                own[key] = draw_field(inner, draws)
        if section in TABLES:
            draw_choice(section, own, draws)
    return values


def draw_choice(section: str, own: dict[str, Any], draws: np.random.Generator) -> None:
    names = sorted(TABLES[section])
    own["name"] = str(draws.choice(names)) if draws.random() < 0.97 else "nothing"
    if own["name"] not in names:
        return
    for key, option in options(section, own["name"]).items():
        needed = option.default is REQUIRED
        if f"{section}.{key}" not in LEFT_ALONE and (needed or draws.random() < 0.3):
            own[key] = draw_option(option, draws)


def draw_option(option: Option, draws: np.random.Generator) -> Any:
    if draws.random() < 0.03:
        return WRONG[draws.integers(len(WRONG))]
    if option.choices is not None:
        return option.choices[draws.integers(len(option.choices))]
    if isinstance(option.default, bool):
        return bool(draws.integers(2))
    if isinstance(option.default, str) or option.range is None:
        return option.default if option.default is not REQUIRED else "text"
    low, high, _ = option.range
    whole = int in _types(option.annotation) and float not in _types(option.annotation)
    return draw_number(low, high, whole, draws)


def draw_field(field: Any, draws: np.random.Generator) -> Any:
    """A value for a field of the schema."""
    if draws.random() < 0.03:
        return WRONG[draws.integers(len(WRONG))]
    kinds = _types(field.annotation)
    choices = [
        c
        for kind in kinds
        if typing.get_origin(kind) is Literal
        for c in typing.get_args(kind)
    ]
    if choices and draws.random() < 0.7:
        return choices[draws.integers(len(choices))]
    if bool in kinds:
        return bool(draws.integers(2))
    marks = [mark for kind in [field, *kinds] for mark in getattr(kind, "metadata", [])]
    low = max([m.ge for m in marks if isinstance(m, Ge)] + [0])
    high = min([m.le for m in marks if isinstance(m, Le)] + [np.inf])
    if any(isinstance(mark, Gt) for mark in marks):
        low = 0.1
    if int in kinds or float in kinds:
        return draw_number(low, high, float not in kinds, draws)
    return field.default


def draw_number(
    low: float, high: float, whole: bool, draws: np.random.Generator
) -> Any:
    """Mostly a small one; what is allowed and large is seldom of use."""
    low = max(low, -10.0)
    near = min(high, low + 10.0)
    if whole:
        return int(draws.integers(int(low), int(near) + 1))
    return float(draws.choice([low, near, draws.uniform(low, near)]))


def _types(annotation: Any) -> list[Any]:
    """The parts of an annotation, at any depth."""
    if typing.get_origin(annotation) is Literal:
        return [annotation]
    if typing.get_origin(annotation) is Annotated:
        return [annotation, *_types(annotation.__origin__)]
    found = [annotation]
    for part in typing.get_args(annotation):
        found += _types(part)
    return found


if __name__ == "__main__":
    sys.exit(carry_out("configs", trial, sys.argv[1:], trials=1000, minutes=20))
