"""What a section of the config may choose: names, papers, options."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from fedjax_sim.commands.flags import run_command
from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.core.options import REQUIRED, Option
from fedjax_sim.experiment.config import TABLES, options

USAGE = "usage: {command} --section=SECTION [--name=NAME]"


def sections() -> dict[str, str]:
    """The sections by what a user may call them: `defense` and `defenses`."""
    return {
        alias: section
        for section, table in TABLES.items()
        for alias in (section, table.group)
    }


def listing(section: str, name: str | None = None) -> str:
    """Returns the names of a section as text, each with its paper and options.

    Args:
      section: such as `defense` or `defenses`.
      name: this one only.

    Raises:
      InputError: there is no such section or name.
    """
    known = sections()
    if section not in known:
        raise InputError(
            f"{section!r} is not a section; {did_you_mean(section, known)}"
        )
    section = known[section]
    names = list(TABLES[section]) if name is None else [name]
    if section == "data" and name is None:
        names.append("tfds:NAME")
    return "\n\n".join("\n".join(_entry(section, name)) for name in names)


def _entry(section: str, name: str) -> Iterator[str]:
    entry = TABLES[section].find(name)
    source = "" if entry.paper == "-" else f"   {entry.paper}"
    yield f"{name}{source}"
    if entry.oracle != "none":
        yield f"    told: {entry.oracle}"
    for option in options(section, name).values():
        limits = "; ".join(allowed_text(option))
        limits = f"   ({limits})" if limits else ""
        yield f"    {option.name}={default_text(option)}{limits}"
        if option.meaning:
            yield f"        {option.meaning}"


def default_text(option: Option) -> str:
    """The default as on the command line, `...` where a value must be given."""
    if option.default is REQUIRED:
        return "..."
    default = option.default
    return str(default).lower() if isinstance(default, bool) else str(default)


def allowed_text(option: Option) -> list[str]:
    """What the option may be, in words."""
    parts = []
    if option.choices is not None:
        parts.append(" | ".join(map(str, option.choices)))
    if option.range is not None:
        parts.append(str(option.range))
    if option.traced:
        parts.append("a sweep over it compiles once")
    return parts


def make_flags() -> flags.FlagValues:
    """The flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "section", None, f"One of: {', '.join(sections())}.", flag_values=values
    )
    flags.DEFINE_string("name", None, "Only this one.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run_command(
        _list, argv, make_flags(), USAGE, ["section"], configurable=False
    )


def _list(values: flags.FlagValues, _: Mapping[str, Any]) -> int:
    print(listing(values.section, values.name))
    return 0
