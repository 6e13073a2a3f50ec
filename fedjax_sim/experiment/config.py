"""From nested values to a checked config, and back.

A config file returns a `ConfigDict` from `get_config()`; keys it leaves out take the
defaults of the schema (`contracts.config`). Sections that choose something by `name`
take its options beside their fixed keys, so an attack or defence of one's own gets its
flags from the signature of its factory.

Everything is checked before anything is compiled: unknown keys (with the nearest valid
name), types, ranges, and combinations that no run could satisfy. What a single rule
refuses stands with the rule (`Entry.check`, and its options' annotations).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pydantic
from pydantic import BaseModel

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.entry import Entry, Table
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.options import REQUIRED, Option, options_of
from fedjax_sim.data.augment import AUGMENTATIONS
from fedjax_sim.data.normalize import NORMALIZATIONS
from fedjax_sim.data.partition import PARTITIONS
from fedjax_sim.data.sources import SOURCES
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.models import MODELS
from fedjax_sim.participation import FACTS, PARTICIPATIONS
from fedjax_sim.participation.parts.malicious_clients import MALICIOUS_CLIENTS
from fedjax_sim.round.execution import parse_strategy
from fedjax_sim.stages import STAGES

# The sections that choose by name.
TABLES: dict[str, Table] = {
    "data": SOURCES,
    "partition": PARTITIONS,
    "model": MODELS,
    "participation": PARTICIPATIONS,
    "attack": ATTACKS,
    "defense": DEFENSES,
    "client_defense": CLIENT_DEFENSES,
}
# Keys that say where a file lies; what it holds is told apart by its fingerprint.
LOCATIONS = (
    "data.data_dir",
    "partition.path",
    "model.init",
    "execution.compilation_cache",
)
# Arguments that the run itself gives to what is chosen: they are no options.
_GIVEN: dict[str, tuple[str, ...]] = {
    "data": ("data_dir", "name"),
    "partition": ("labels", "num_clients", "seed", "groups"),
    "model": ("num_classes", "image_shape", "lowering"),
    "participation": FACTS,
}


def options(section: str, name: str, before: Sequence[str] = ()) -> dict[str, Option]:
    """Returns the options that a choice of a section has, by key.

    Args:
      section: of the config.
      name: what it chooses.
      before: of a defence, the stages in front of it, whose options begin with their
        names.

    Raises:
      InputError: the name does not exist.
    """
    found = TABLES[section].find(name).options
    given = _GIVEN.get(section, ())
    own = {key: option for key, option in found.items() if key not in given}
    for stage in before:
        prefix = stage_prefix(stage)
        for key, option in find_stage(stage).options.items():
            own[prefix + key] = option._replace(name=prefix + key)
    return own


def find_stage(name: str) -> Entry:
    """Returns a stage that may stand in front of a rule.

    Raises:
      InputError: there is none of that name.
    """
    if ":" not in name and name not in STAGES:
        raise InputError(
            f"config.defense.before = {name!r} does not exist; "
            f"{did_you_mean(name, STAGES)}, or MODULE:FACTORY"
        )
    return STAGES.find(name)


def stage_prefix(name: str) -> str:
    """What the options of a stage begin with; of MODULE:FACTORY that is the factory."""
    return name.rpartition(":")[2] + "_"


def traced_keys(section: str, name: str, before: Sequence[str] = ()) -> list[str]:
    """Returns the options that a sweep varies without a new compilation."""
    return [key for key, own in options(section, name, before).items() if own.traced]


def resolve(values: Mapping[str, Any]) -> Config:
    """Checks a nested mapping against the schema and fills in every default.

    Raises:
      InputError: with one line that names the key, the value and what is allowed.
    """
    values = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
    for section in TABLES:
        given = values.get(section, {})
        if not isinstance(given, Mapping):
            raise InputError(f"config.{section} = {given!r} must be a group of keys")
        values[section] = _with_options(section, given)
    config = _validate(Config, values, "")
    _check(config)
    return config


def _with_options(section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section, those of what it chooses checked and put together."""
    fixed = _fixed_keys(section)
    name = given.get("name", Config.model_fields[section].default.name)
    if not isinstance(name, str):
        raise InputError(f"config.{section}.name = {name!r} must be a string")
    if "before" in fixed and "before" in given:
        given = {**given, "before": _names(given["before"])}
    before = given.get("before", ()) if section == "defense" else ()
    if not isinstance(before, tuple) or not all(isinstance(x, str) for x in before):
        before = ()  # the schema says what is wrong with it
    own = options(section, name, before)
    for key in given:
        if key not in fixed and key not in own:
            hint = did_you_mean(key, [*fixed, *own])
            raise InputError(f"config.{section}.{key} is not a key; {hint}")
    schema = _options_schema(section, TABLES[section].find(name).factory, before)
    # Several values in one key are a tuple; JSON knows lists only.
    chosen = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in given.items()
        if key in own
    }
    checked = _validate(schema, chosen, section)
    for key, option in own.items():
        option.check(section, getattr(checked, key))
    return {
        **{key: value for key, value in given.items() if key not in own},
        "options": {key: getattr(checked, key) for key in own},
    }


@lru_cache(maxsize=500)  # of them there are about 100; a sweep resolves thousands
def _options_schema(
    section: str, factory: Callable[..., Any], before: tuple[str, ...] = ()
) -> type[BaseModel]:
    """The options of a factory, and of stages, as a model that checks their types."""
    given = _GIVEN.get(section, ())
    own = {key: one for key, one in options_of(factory).items() if key not in given}
    for stage in before:
        prefix = stage_prefix(stage)
        found = find_stage(stage).options
        own |= {prefix + key: one for key, one in found.items()}
    fields: dict[str, Any] = {
        key: (one.annotation, ... if one.default is REQUIRED else one.default)
        for key, one in own.items()
    }
    return pydantic.create_model(
        f"{section} options",
        __config__=pydantic.ConfigDict(
            extra="forbid", strict=True, arbitrary_types_allowed=True
        ),
        **fields,
    )


def _names(value: Any) -> Any:
    """Several names: a tuple, from a list of JSON or `a,b` of a command line."""
    if isinstance(value, str):
        return tuple(filter(None, (part.strip() for part in value.split(","))))
    return tuple(value) if isinstance(value, list) else value


def _fixed_keys(section: str) -> list[str]:
    """The keys that a section has whatever it chooses."""
    fields = type(Config.model_fields[section].default).model_fields
    return [key for key in fields if key != "options"]


def _validate(schema: type[BaseModel], values: Mapping[str, Any], section: str):
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as problem:
        errors = problem.errors()
    error = errors[0]
    # Behind the fields `loc` names the members of a union, which share one input.
    path, fields = [], schema.model_fields
    for part in map(str, error["loc"]):
        if part not in fields and error["type"] != "extra_forbidden":
            break
        path.append(part)
        if part in fields:
            fields = getattr(fields[part].annotation, "model_fields", {})
    depth = len(path)
    path = ([section] if section else []) + path
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        names = [name for name in fields if name != "options"]
        raise InputError(f"config.{key} is not a key; {did_you_mean(path[-1], names)}")
    if error["type"] == "missing":
        raise InputError(f"config.{key} must be given")
    same = [e for e in errors if e["loc"][:depth] == error["loc"][:depth]]
    message = ", or ".join(e["msg"][0].lower() + e["msg"][1:] for e in same)
    raise InputError(f"config.{key} = {error['input']!r}: {message}")


def _check(config: Config) -> None:
    """Combinations that no run could satisfy."""
    for key, value, table in (
        ("data.normalization", config.data.normalization, NORMALIZATIONS),
        ("data.augmentation", config.data.augmentation, AUGMENTATIONS),
        (
            "attack.malicious_clients",
            config.attack.malicious_clients,
            MALICIOUS_CLIENTS,
        ),
    ):
        if value not in table:
            raise InputError(
                f"config.{key} = {value!r} does not exist; {did_you_mean(value, table)}"
            )
    genuine, fake = config.partition.num_clients, config.attack.num_fake
    cohort = config.participation.clients_per_round
    if cohort > genuine + fake:
        fakes = f" + config.attack.num_fake = {fake}" if fake else ""
        raise InputError(
            f"config.participation.clients_per_round = {cohort} must be at most "
            f"config.partition.num_clients = {genuine}{fakes}"
        )
    if config.attack.num_malicious > genuine:
        raise InputError(
            f"config.attack.num_malicious = {config.attack.num_malicious} must be at "
            f"most config.partition.num_clients = {genuine}"
        )
    if config.attack.name != "none" and config.attack.num_malicious + fake == 0:
        raise InputError(
            f"config.attack.num_malicious = 0, but config.attack.name = "
            f"{config.attack.name!r} needs at least one malicious client"
        )
    if config.attack.name == "none" and config.attack.adapt != "none":
        raise InputError(
            f"config.attack.adapt = {config.attack.adapt!r} needs an attack; "
            "config.attack.name = 'none'"
        )
    if config.attack.name == "none" and config.attack.rest_above is not None:
        raise InputError(
            f"config.attack.rest_above = {config.attack.rest_above} needs an attack; "
            "config.attack.name = 'none'"
        )
    first = config.attack.options.get("start_round", 1)
    if first > config.rounds:
        raise InputError(
            f"config.attack.start_round = {first} must be at most config.rounds = "
            f"{config.rounds}: there would be no attack"
        )
    chosen = TABLES["defense"].find(config.defense.name)
    if config.defense.weights == "examples" and not chosen.weighs:
        raise InputError(
            f"config.defense.weights = 'examples': config.defense.name = "
            f"{config.defense.name!r} takes no mean by the clients' weights; allowed: "
            "uniform"
        )
    if config.execution.clients != "auto":
        parse_strategy(config.execution.clients)
    for section, choices in TABLES.items():
        refuse = choices.find(getattr(config, section).name).check
        if refuse is not None:
            refuse(config)


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the resolved config as nested plain values, options beside fixed keys.

    `resolve(to_dict(config)) == config`.
    """
    values = config.model_dump()
    for section in TABLES:
        values[section].update(values[section].pop("options"))
    return values


def flatten(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat = {}
    for key, value in group.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def override(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Applies `{"section.key": value}` to a nested mapping.

    A change of a section's `name` drops the options that belonged to the old choice
    and that the new one does not know.
    """
    values = _copied(base)
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key != "name" or section not in TABLES or not isinstance(value, str):
            continue
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"config.{path}: config.{section} is a value, no group")
        before = changes.get(
            "defense.before", values.get(section, {}).get("before", ())
        )
        before = _names(before) if section == "defense" else ()
        known = options(section, value, before)
        fixed = _fixed_keys(section)
        values[section] = {
            k: v for k, v in values.get(section, {}).items() if k in fixed or k in known
        }
    for path, value in changes.items():
        *parents, key = path.split(".")
        place = values
        for depth, parent in enumerate(parents, start=1):
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                above = ".".join(parents[:depth])
                raise InputError(f"config.{path}: config.{above} is a value, no group")
        place[key] = _copied(value)
    return values


def _copied(value: Any) -> Any:
    """The value, with groups of its own: a later change stays out of the caller's."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value
