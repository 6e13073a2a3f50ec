"""Rules by name: a rule is a file, and the file says what the rule is.

A module of `defenses/`, `attacks/`, `client_defenses/` or `participation/` holds one
rule under the module's own name, and an `ENTRY` that says where it comes from. So
whoever adds a rule adds a file, and no table knows a rule's name. `parts/` holds what
several rules are made of. A rule of several files is a folder, whose `__init__` is the
rule.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from fedjax_sim.contracts.config import Config
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.options import Option, options_of, traced_names


class Entry(NamedTuple):
    """A rule as it stands in a table.

    Attributes:
      factory: takes keyword-only options and returns the rule.
      paper: where it was published.
      oracle: what it is told by default that no real participant could know, or "none".
      check: refuses a config in which the rule cannot work, by an `InputError`; what
        depends on its own options alone is the factory's business.
      alike: of a partition, whose clients are understood to be alike (IID): a run says
        it if some lack classes.
      weighs: of a server rule, which averages by the clients' weights, so that these
        may be the numbers of their samples.
    """

    factory: Callable[..., Any]
    paper: str
    oracle: str = "none"
    check: Callable[[Config], None] | None = None
    alike: bool = False
    weighs: bool = False

    @property
    def options(self) -> dict[str, Option]:
        """The options of the factory, by name."""
        return options_of(self.factory)

    @property
    def traced(self) -> tuple[str, ...]:
        """Options that a sweep varies without a new compilation."""
        return traced_names(self.factory)


class Table(MutableMapping[str, Entry]):
    """What a section of the config may choose, by name.

    Beside its own entries a table knows those that installed packages announce as entry
    points of the group `fedjax_sim.<group>`, and any `module:attribute` that can be
    imported, where the attribute is a factory or an `Entry`.

    Args:
      section: of the config, such as `model`.
      group: of the entry points, such as `models`.
      entries: to begin with; more may be set, `table["mine"] = Entry(...)`.
    """

    def __init__(
        self, section: str, group: str, entries: Mapping[str, Entry] | None = None
    ):
        self.section, self.group = section, group
        self._own = dict(entries or {})

    def __getitem__(self, name: str) -> Entry:
        if name in self._own:
            return self._own[name]
        return imported(self.section, self._announced()[name])

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._own[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own, *self._announced()}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find(self, name: str) -> Entry:
        """Returns the entry of a name that a user gave.

        Raises:
          InputError: there is none of that name, or it cannot be imported.
        """
        if ":" in name:
            return imported(self.section, name)
        if name not in self:
            raise InputError(
                f"config.{self.section}.name = {name!r} does not exist; "
                f"{did_you_mean(name, self)}, or MODULE:FACTORY"
            )
        return self[name]

    def outside(self, name: str) -> str | None:
        """Returns the MODULE:FACTORY of a name from elsewhere, None for our own."""
        if ":" in name:
            return name
        return None if name in self._own else self._announced().get(name)

    def _announced(self) -> dict[str, str]:
        """Names that installed packages announce, and what they stand for."""
        points = metadata.entry_points(group=f"fedjax_sim.{self.group}")
        return {point.name: point.value for point in points}


class Registry(Table):
    """The rules of a package by name; each is imported when it is asked for.

    Args:
      package: dotted name of the package whose modules are the rules; its last part
        is the group of entry points, too.
      section: of the config that chooses among them, such as `defense`.
    """

    def __init__(self, package: str, section: str):
        super().__init__(section, package.rpartition(".")[2])
        self.package = package

    def __getitem__(self, name: str) -> Entry:
        if name in self._own or name not in self._modules():
            return super().__getitem__(name)
        return importlib.import_module(f"{self.package}.{name}").ENTRY

    def __contains__(self, name: object) -> bool:
        return (
            name in self._own or name in self._modules() or super().__contains__(name)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*super().__iter__(), *self._modules()}))

    def outside(self, name: str) -> str | None:
        """See `Table`."""
        return None if name in self._modules() else super().outside(name)

    def _modules(self) -> frozenset[str]:
        return _modules_of(self.package)


@cache
def _modules_of(package: str) -> frozenset[str]:
    """The modules of a package that are rules; the disk is asked once."""
    path = importlib.import_module(package).__path__
    found = (module.name for module in pkgutil.iter_modules(path))
    return frozenset(n for n in found if n != "parts" and not n.startswith("_"))


def imported(section: str, name: str) -> Entry:
    """Returns the entry that `module:attribute` names.

    Args:
      section: of the config, for the message.
      name: the attribute is an `Entry` or a factory; a factory that the module's own
        `ENTRY` has is taken with what that says of it.

    Raises:
      InputError: no such module or attribute, or it is neither of the two.
    """
    where, _, attribute = name.partition(":")
    start = f"config.{section}.name = {name!r}"
    try:
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{start}: there is no module {error.name!r}; it must be installed, in the "
            "folder that the command is started from, or in PYTHONPATH"
        ) from None
    except Exception as error:  # whatever the user's module does
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{start}: {where} cannot be imported ({what})") from error
    found = getattr(module, attribute, None)
    if isinstance(found, Entry):
        return found
    if not callable(found):
        callables = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", where) == where
        ]
        raise InputError(
            f"{start}: {where} has no factory {attribute!r}; "
            f"{did_you_mean(attribute, callables)}"
        )
    own = getattr(module, "ENTRY", None)
    if isinstance(own, Entry) and own.factory is found:
        return own
    return Entry(found, paper="-", weighs=True)
