"""What runs have in place of the defaults of their rules.

A paper's config files change options of a rule in silence: `defense=bulyan` of LeadFL
means the authors' rule. Reports and `--print_config` say it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment.config import TABLES
from fedjax_sim.papers.cells import format_label

_SECTIONS = ("attack", "defense", "client_defense", "participation", "model")


def unusual_options(
    section: str, name: str, options: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Returns the options of a rule that are not its defaults: (value, default).

    Args:
      section: of the config, such as `defense`.
      name: of the rule.
      options: its options by name; others are passed over.

    Raises:
      InputError: there is no such rule.
    """
    found = {}
    for key, option in TABLES[section].find(name).options.items():
        default = option.default
        if key in options and not _same(options[key], default):
            found[key] = options[key], default
    return found


def own_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each rule in rows of the store with options of its own.

    An option that differs between the rows of a rule is varied, and is not said.
    """
    lines = []
    for section in _SECTIONS:
        for name in dict.fromkeys(run.get(f"{section}_name") for run in runs):
            own = [run for run in runs if run.get(f"{section}_name") == name]
            if name is None:
                continue
            first = {
                key.removeprefix(f"{section}_"): value for key, value in own[0].items()
            }
            try:
                found = unusual_options(section, name, first)
            except InputError:  # a rule from elsewhere that is not here any more
                continue
            parts = [
                f"{key} = {format_label(value)} (default {_shown(default)})"
                for key, (value, default) in found.items()
                if all(run.get(f"{section}_{key}") == value for run in own)
            ]
            if parts:
                lines.append(f"{section} {name}: {', '.join(parts)}")
    return lines


def _same(value: Any, default: Any) -> bool:
    """Lists are text in the store, and tuples in a signature."""
    if isinstance(default, tuple | list):
        return value in (list(default), tuple(default), json.dumps(list(default)))
    if isinstance(value, int | float) and isinstance(default, int | float):
        return float(value) == float(default)
    return value == default


def _shown(default: Any) -> str:
    return "none" if default is None else format_label(default)
