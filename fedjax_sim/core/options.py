"""An option of a rule, declared once: in the signature of the rule's factory.

    @checked("defense")
    def norm_filter(*, factor: Traced[Positive] = 2.0, base: Base = "mean") -> Defense:
        \"\"\"...

        Args:
          factor: of the median norm; longer updates are left out.
        \"\"\"

The annotation says type and range and whether a sweep may trace the number (vary it
without a new compilation); `Literal` lists what may be chosen; the default stands
behind it; the meaning is the docstring's. From here come the check of every call, the
flags, the list of traced numbers, and the documentation. What depends on other options,
on the data or on the federation is checked where it is known.
"""

import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar

from fedjax_sim.core.errors import InputError, check_choice, check_range, did_you_mean

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Range(NamedTuple):
    """The numbers that are allowed: from `low` (or above it) to `high`.

    Those without a `high` must be such as the program's types hold: int32 and float32.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "finite" if self.high == math.inf else f"at most {self.high}"
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        return low if self.high == math.inf else f"{low}, at most {self.high}"


class _TracedMark:
    """Marks a number that a sweep may vary without a new compilation."""


Traced = Annotated[T, _TracedMark()]

# They go inside `Traced[...]`, beside `| None`, and into a tuple.
Positive = Annotated[float, Range(0, open_low=True)]
Sizable = Annotated[float, Range(1e-12)]  # positive, and float32 may divide by it
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]  # how many, at least one
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # all that NumPy's RandomState takes
Width = Annotated[int, Range(1, 1_000_000)]  # of a layer or an image

REQUIRED = inspect.Parameter.empty


class Option(NamedTuple):
    """One keyword of a factory.

    Attributes:
      name: of the keyword, and of the config's key.
      annotation: as it stands in the signature.
      default: `REQUIRED` if it must be given.
      range: of a number, or of each number of a tuple; None if there is none.
      choices: of a `Literal`; None if anything of the type goes.
      traced: a sweep may vary it without a new compilation.
      meaning: one line, from the factory's docstring; empty if that says nothing.
    """

    name: str
    annotation: Any
    default: Any
    range: Range | None
    choices: tuple[Any, ...] | None
    traced: bool
    meaning: str

    def check(self, section: str, value: Any) -> None:
        """Raises InputError unless the option may have this value.

        A traced number is an array and cannot be checked; a type is the config's
        business, which knows what a user wrote.
        """
        if value is None and _allows_none(self.annotation):
            return
        if self.choices is not None and not isinstance(value, int | float):
            check_choice(section, self.name, value, self.choices)
        elif self.range is not None and not isinstance(value, bool):
            low, high, open_low = self.range
            for number in value if isinstance(value, tuple) else (value,):
                check_range(section, self.name, number, low, high, open_low=open_low)


@functools.cache
def options_of(factory: Callable[..., Any]) -> dict[str, Option]:
    """Returns the options of a factory by name, in the order of its signature."""
    hints = typing.get_type_hints(undecorated(factory), include_extras=True)
    meanings = _meanings(inspect.getdoc(undecorated(factory)) or "")
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = hints.get(name, Any)
        parts = list(_parts(annotation))
        ranges = [part for part in parts if isinstance(part, Range)]
        literals = [part for part in parts if typing.get_origin(part) is Literal]
        number = any(part in (int, float) for part in parts)
        found[name] = Option(
            name=name,
            annotation=annotation,
            default=parameter.default,
            range=ranges[0] if ranges else Range() if number else None,
            choices=tuple(c for part in literals for c in typing.get_args(part))
            or None,
            traced=any(isinstance(part, _TracedMark) for part in parts),
            meaning=meanings.get(name, ""),
        )
    return found


def traced_names(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the options that a sweep varies without a new compilation."""
    return tuple(name for name, own in options_of(factory).items() if own.traced)


def checked(section: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a factory refuse what its signature does not allow.

    Args:
      section: of the config, for the message: `config.<section>.<option> = ...`.
    """

    def decorate(factory: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(factory)
        def make(*args: P.args, **given: P.kwargs) -> R:
            own = options_of(make)
            for key, value in given.items():
                if key not in own:
                    hint = did_you_mean(key, own) if own else "it has none"
                    raise InputError(
                        f"config.{section}.{key} is not an option of "
                        f"{factory.__name__}; {hint}"
                    )
                own[key].check(section, value)
            return factory(*args, **given)

        return make

    return decorate


def gather(settings: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Returns the named tuple of those options that are its fields.

    `gather(Settings, locals())`, first in a factory, hands its options on together.

    Args:
      settings: a class made by `NamedTuple`; every field is an option.
      options: of the factory, by name.
    """
    fields = settings._fields  # type: ignore[attr-defined]
    return settings(**{name: options[name] for name in fields})


def undecorated(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind decorators and partial calls, whose hints can be read."""
    while True:
        if isinstance(factory, functools.partial):
            factory = factory.func
        elif hasattr(factory, "__wrapped__"):
            factory = factory.__wrapped__
        else:
            return factory


def _parts(annotation: Any) -> typing.Iterator[Any]:
    """Everything an annotation is made of, at any depth: types, marks, ranges."""
    if isinstance(annotation, Range | _TracedMark):
        yield annotation
        return
    yield annotation
    if typing.get_origin(annotation) is Literal:
        return
    if typing.get_origin(annotation) is Annotated:
        yield from _parts(annotation.__origin__)
        for mark in annotation.__metadata__:
            yield from _parts(mark)
        return
    for part in typing.get_args(annotation):
        yield from _parts(part)


def _allows_none(annotation: Any) -> bool:
    return any(part in (type(None), Any) for part in _parts(annotation))


def _meanings(doc: str) -> dict[str, str]:
    """Reads the `Args:` of a docstring; names that share a line share its text."""
    _, _, rest = doc.partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {2}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2].strip())
        elif line.strip():
            for name in names:
                found[name] += " " + line.strip()
    return found
