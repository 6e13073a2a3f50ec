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
    """

    factory: Callable[..., Any]
    paper: str
    oracle: str = "none"
    check: Callable[[Config], None] | None = None

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

    Args:
      section: of the config, such as `model`.
      entries: to begin with; more may be set, `table["mine"] = Entry(...)`.
    """

    def __init__(self, section: str, entries: Mapping[str, Entry] | None = None):
        self.section = section
        self._own = dict(entries or {})

    def __getitem__(self, name: str) -> Entry:
        return self._own[name]

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._own[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find(self, name: str) -> Entry:
        """Returns the entry of a name that a user gave.

        Raises:
          InputError: there is none of that name.
        """
        if name not in self:
            raise InputError(
                f"config.{self.section}.name = {name!r} does not exist; "
                f"{did_you_mean(name, self)}"
            )
        return self[name]


class Registry(Table):
    """The rules of a package by name; each is imported when it is asked for.

    Args:
      package: dotted name of the package whose modules are the rules.
      section: of the config that chooses among them, such as `defense`.
    """

    def __init__(self, package: str, section: str):
        super().__init__(section)
        self.package = package

    def __getitem__(self, name: str) -> Entry:
        if name in self._own:
            return self._own[name]
        if name not in self._modules():
            raise KeyError(name)
        entry = importlib.import_module(f"{self.package}.{name}").ENTRY
        if not isinstance(entry, Entry):
            raise TypeError(f"{self.package}.{name}.ENTRY is no Entry")
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own, *self._modules()}))

    def _modules(self) -> list[str]:
        path = importlib.import_module(self.package).__path__
        found = (module.name for module in pkgutil.iter_modules(path))
        return [name for name in found if name != "parts" and not name.startswith("_")]
