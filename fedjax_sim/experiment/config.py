"""The typed schema behind a config file, and how flags change it.

A config file returns a `ConfigDict` from `get_config()`; keys it leaves out take the
defaults of the schema below. `--config.section.key=value` overrides one key, also one
that the file does not mention. Sections that choose something by `name` (a data set,
a defence, ...) take, beside their fixed keys, the keyword arguments of what is chosen:
`defense.name = "droplet"` allows `defense.penalty`. So an attack or defence of one's
own gets its flags from the signature of its factory.

Everything is checked before anything is compiled: unknown keys (with the nearest valid
name), types, ranges, and combinations that no run could satisfy.
"""

import ast
import importlib.util
import inspect
import typing
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from ml_collections import ConfigDict
from pydantic import BaseModel, Field

from fedjax_sim import models
from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.data import sources
from fedjax_sim.data.augment import AUGMENTATIONS
from fedjax_sim.data.normalize import NORMALIZATIONS
from fedjax_sim.data.partition import PARTITIONS
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.participation import leadfl as leadfl_schedule
from fedjax_sim.participation import sampling
from fedjax_sim.round.execution import parse_strategy

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

PARTICIPATIONS: dict[str, Callable] = {
    "uniform": sampling.uniform,
    "enforced": sampling.enforced,
    "periodic": sampling.periodic,
    "explicit": sampling.explicit,
    "leadfl": leadfl_schedule.leadfl,
}


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values are not converted."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Named(Section):
    """A section whose `name` chooses a factory; `options` are its arguments."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Data(Named):
    """Which images, and what the model sees of them."""

    name: str = "digits"  # a key of data.sources.SOURCES, or tfds:NAME
    data_dir: str | None = None  # folder that holds the official files
    normalization: str = "half"
    augmentation: str = "none"
    num_train: Positive | None = None  # use the first so many training samples only
    num_test: Positive | None = None  # and the first so many test samples


class PartitionSection(Named):
    """Which client holds which samples."""

    name: str = "drop_iid"
    num_clients: Positive = 10  # N, genuine clients
    seed: Seed | None = None  # None: the run's seed


class ModelSection(Named):
    """The network."""

    name: str = "mlp"


class Client(Section):
    """Local training."""

    lr: NonNegative = 0.01
    schedule: Literal["constant", "step", "cosine"] = "constant"  # of lr, over rounds
    momentum: NonNegative = 0.9
    persist_momentum: bool = False  # the buffer of a client survives between rounds
    weight_decay: NonNegative = 0.0
    batch_size: Positive = 64
    epochs: Positive = 2
    steps: Positive | None = None  # a number of steps instead of epochs


class ParticipationSection(Named):
    """Who takes part in a round."""

    name: str = "uniform"
    clients_per_round: Positive = 10  # n


class AttackSection(Named):
    """The adversary and how many clients it controls."""

    name: str = "none"
    num_malicious: Annotated[int, Field(ge=0)] = 0  # M among the genuine clients
    num_fake: Annotated[int, Field(ge=0)] = 0  # malicious clients beyond them, no data
    malicious_clients: Literal["random", "last", "leadfl"] = "random"


class DefenseSection(Named):
    """The server rule."""

    name: str = "fedavg"


class ClientDefenseSection(Named):
    """What benign clients change in their own training."""

    name: str = "none"


class Server(Section):
    """The server step."""

    lr: NonNegative = 1.0
    optimizer: Literal["none", "sgd", "adagrad", "adam", "yogi"] = "none"


class Evaluation(Section):
    """When and what to measure."""

    every: Positive = 1  # rounds
    batch_size: Positive = 500
    low_confidence_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    any_source: bool = False  # ASR also over the triggered images of all classes
    batch_statistics: bool = False  # BatchNorm as in training (LeadFL's code)
    attack_effect: bool = False  # run the same rounds without the attack beside it


class Execution(Section):
    """How the work is laid out; no effect on results but rounding."""

    clients: str = "auto"  # auto, vmap, map or chunk:K
    lowering: Literal["auto", "patches", "blocked", "winograd", "native"] = "auto"
    microbatch: Literal["off"] | Positive = "off"
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    memory_gib: Annotated[float, Field(gt=0)] | Literal["auto", "unlimited"] = "auto"


class Checkpoint(Section):
    """When a run saves itself."""

    every_rounds: Positive | None = None  # None: by time only
    every_seconds: NonNegative = 60.0


class Log(Section):
    """What a run writes beside its results."""

    tensorboard: bool = False


class Config(Section):
    """A complete run."""

    seed: Seed = 0
    rounds: Positive = 20
    data: Data = Data()
    partition: PartitionSection = PartitionSection()
    model: ModelSection = ModelSection()
    client: Client = Client()
    participation: ParticipationSection = ParticipationSection()
    attack: AttackSection = AttackSection()
    defense: DefenseSection = DefenseSection()
    client_defense: ClientDefenseSection = ClientDefenseSection()
    server: Server = Server()
    evaluation: Evaluation = Evaluation()
    execution: Execution = Execution()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()


def _from_table(table: Mapping[str, Any], get: Callable = lambda entry: entry):
    def factory(key: str, name: str) -> Callable:
        if name not in table:
            hint = did_you_mean(name, table)
            raise InputError(f"config.{key}.name = {name!r} does not exist; {hint}")
        return get(table[name])

    return factory


# Section -> (how to find the factory, arguments that the run itself supplies).
_FACTORIES: dict[str, tuple[Callable[[str, str], Callable], tuple[str, ...]]] = {
    "data": (lambda key, name: sources.loader(name), ("data_dir", "name")),
    "partition": (_from_table(PARTITIONS), ("labels", "num_clients", "seed")),
    "model": (
        _from_table(models.MODELS, lambda entry: entry.build),
        ("num_classes", "image_shape", "lowering"),
    ),
    "participation": (
        _from_table(PARTICIPATIONS),
        ("population", "cohort_size", "num_malicious", "rounds"),
    ),
    "attack": (_from_table(ATTACKS, lambda entry: entry.factory), ()),
    "defense": (_from_table(DEFENSES, lambda entry: entry.factory), ()),
    "client_defense": (
        _from_table(CLIENT_DEFENSES, lambda entry: entry.factory),
        (),
    ),
}


def _option_fields(section: str, name: str) -> dict[str, tuple[Any, Any]]:
    """The options of a factory as pydantic fields: name -> (type, default)."""
    find, supplied = _FACTORIES[section]
    factory = find(section, name)
    parameters = inspect.signature(factory).parameters
    target = getattr(factory, "func", factory)
    hints = typing.get_type_hints(target, include_extras=True)
    if section == "participation" and name == "explicit":
        # A schedule is an array in a program and a file in a config.
        return {"schedule": (str, ...)}
    return {
        key: (
            hints.get(key, Any),
            ... if p.default is inspect.Parameter.empty else p.default,
        )
        for key, p in parameters.items()
        if key not in supplied
    }


def resolve(values: Mapping[str, Any]) -> Config:
    """Checks a nested mapping against the schema and fills in every default.

    Raises:
      InputError: with one line that names the key, the value and what is allowed.
    """
    values = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
    for section in _FACTORIES:
        given = values.get(section, {})
        if not isinstance(given, Mapping):
            raise InputError(f"config.{section} = {given!r} must be a group of keys")
        fixed = Config.model_fields[section].annotation
        name = given.get("name", fixed.model_fields["name"].default)
        if not isinstance(name, str):
            raise InputError(f"config.{section}.name = {name!r} must be a string")
        fields = _option_fields(section, name)
        allowed = [key for key in fixed.model_fields if key != "options"]
        for key in given:
            if key not in allowed and key not in fields:
                hint = did_you_mean(key, [*allowed, *fields])
                raise InputError(f"config.{section}.{key} is not a key; {hint}")
        # Several values in one key are a tuple; JSON knows lists only.
        options = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in given.items()
            if key in fields
        }
        schema = pydantic.create_model(
            f"{section} options",
            __config__=pydantic.ConfigDict(
                extra="forbid", strict=True, arbitrary_types_allowed=True
            ),
            **fields,
        )
        checked = _validate(schema, options, section)
        values[section] = {
            **{key: value for key, value in given.items() if key not in fields},
            "options": {key: getattr(checked, key) for key in fields},
        }
    config = _validate(Config, values, "")
    _check(config)
    return config


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
    ):
        if value not in table:
            raise InputError(
                f"config.{key} = {value!r} does not exist; {did_you_mean(value, table)}"
            )
    genuine, fake = config.partition.num_clients, config.attack.num_fake
    cohort = config.participation.clients_per_round
    if config.participation.name != "explicit" and cohort > genuine + fake:
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
    imitates = config.attack.name.startswith("adaptive_")
    if imitates and config.defense.name != "fedredefense":
        raise InputError(
            f"config.attack.name = {config.attack.name!r} imitates the reconstruction "
            "of the server: it needs config.defense.name = 'fedredefense', not "
            f"{config.defense.name!r}"
        )
    if config.attack.name in ("scaling", "dba") and config.client.steps is not None:
        raise InputError(
            f"config.client.steps = {config.client.steps} must be none with "
            f"config.attack.name = {config.attack.name!r}: it alternates between "
            "passes over poisoned and clean data, config.client.epochs of each"
        )
    plain_step = config.server.lr == 1 and config.server.optimizer == "none"
    if config.defense.name == "flcert" and not plain_step:
        raise InputError(
            f"config.server.lr = {config.server.lr}, config.server.optimizer = "
            f"{config.server.optimizer!r}: the groups of config.defense.name = "
            "'flcert' take full steps of their own; allowed: 1 and none"
        )
    if config.participation.name == "leadfl" and (
        config.attack.malicious_clients != "leadfl" or fake
    ):
        raise InputError(
            "config.participation.name = 'leadfl' is a schedule of published clients: "
            "it needs config.attack.malicious_clients = 'leadfl' and "
            "config.attack.num_fake = 0"
        )
    if config.attack.name != "none" and config.attack.num_malicious + fake == 0:
        raise InputError(
            f"config.attack.num_malicious = 0, but config.attack.name = "
            f"{config.attack.name!r} needs at least one malicious client"
        )
    first = config.attack.options.get("start_round", 1)
    if first > config.rounds:
        raise InputError(
            f"config.attack.start_round = {first} must be at most config.rounds = "
            f"{config.rounds}: there would be no attack"
        )
    if config.execution.clients != "auto":
        parse_strategy(config.execution.clients)


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the resolved config as nested plain values, options beside fixed keys.

    `resolve(to_dict(config)) == config`.
    """
    values = config.model_dump()
    for section in _FACTORIES:
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


def load_file(path: str) -> dict[str, Any]:
    """Runs `get_config()` of a config file; `path:TEXT` calls `get_config("TEXT")`.

    Returns:
      The config it returns, as plain groups.

    Raises:
      InputError: no such file, no `get_config`, an argument it does not take, an error
        inside, or something else than a config.
    """
    path, _, argument = path.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config={path}: there is no such file")
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
        return config.to_dict()
    if isinstance(config, Mapping):
        return dict(config)
    raise InputError(
        f"--config={path}: get_config() returned {config!r}, not a ConfigDict"
    )


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


def override(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Applies `{"section.key": value}` to a nested mapping.

    A change of a section's `name` drops the options that belonged to the old choice
    and that the new one does not know.
    """
    values = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in base.items()
    }
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if key != "name" or section not in _FACTORIES or not isinstance(value, str):
            continue
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"config.{path}: config.{section} is a value, no group")
        known = _option_fields(section, value)
        fixed = Config.model_fields[section].annotation.model_fields
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
        place[key] = value
    return values
