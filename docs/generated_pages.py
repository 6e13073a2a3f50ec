"""Pages made from the code at every build: options, config keys, fields of files.

What they say stands in one place, the declaration: an option in the signature and the
docstring of its factory, a config key in the schema, a field of a file in the docstring
of `runs/directory.py`.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from fedjax_sim.commands.listing import allowed_text, default_text
from fedjax_sim.contracts import config as schema
from fedjax_sim.contracts.config import Config
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.errors import FLOAT32_MAX, INT32_MAX
from fedjax_sim.core.options import undecorated
from fedjax_sim.experiment.config import TABLES, options
from fedjax_sim.runs import directory

TITLES = {
    "defense": "Defences",
    "attack": "Attacks",
    "client_defense": "Client-side defences",
    "participation": "Participation",
    "partition": "Partitions",
    "model": "Models",
    "data": "Data sets",
}


def pages() -> dict[str, str]:
    """Returns the text of every generated page by its name."""
    made = {f"{section}.md": options_page(section) for section in TITLES}
    made["config.md"] = config_page()
    made["files.md"] = files_page()
    return made


def write_pages(folder: Path) -> None:
    """Writes the pages that are new or changed."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# ------------------------------------------------------------------------- options


def options_page(section: str) -> str:
    """Every name of a section, with its paper and its options."""
    lines = [
        f"# {TITLES[section]}",
        "",
        f"A name is a value of `--config.{section}.name`, an option a key beside it: "
        f"`--config.{section}.OPTION=VALUE`. The same list on the command line: "
        f"`fedjax-sim list --section={section}`.",
        "",
    ]
    for name in TABLES[section]:
        lines += [f"## {name}", ""]
        lines += _entry(section, name, TABLES[section].find(name))
    return "\n".join(lines)


def _entry(section: str, name: str, entry: Entry) -> Iterator[str]:
    yield from (_summary(entry), "")
    if entry.paper != "-":
        yield from (f"Source: {_plain(entry.paper)}", "")
    if entry.oracle != "none":
        yield from (f"It is told what no participant knows: {entry.oracle}.", "")
    own = options(section, name)
    if not own:
        yield from ("No options.", "")
    for option in own.values():
        yield f"`{option.name}` = `{default_text(option)}`"
        limits = allowed_text(option)
        if not limits and isinstance(option.default, bool):
            limits = ["true | false"]
        yield _definition(option.meaning, "; ".join(limits))
        yield ""


def _definition(meaning: str, limits: str) -> str:
    """What an option means, and in italics what it may be."""
    said = [_plain(meaning), f"*{_plain(limits)}*" if limits else ""]
    return f": {'<br>'.join(filter(None, said)) or 'See above.'}"


def _summary(entry: Entry) -> str:
    """The first paragraph of the factory's docstring."""
    doc = inspect.getdoc(undecorated(entry.factory)) or ""
    return _plain(" ".join(doc.partition("\n\n")[0].split()))


def _plain(text: str) -> str:
    """Text in which nothing is markup but `code` and *emphasis*."""
    parts = re.split(r"(`[^`]*`|(?<!\w)\*\w[^*`]*\w\*(?!\w))", text)
    return "".join(
        part if index % 2 else re.sub(r"([\\*_<>\[\]$#|])", r"\\\1", part)
        for index, part in enumerate(parts)
    )


# --------------------------------------------------------------------- config keys


def config_page() -> str:
    """Every key of the schema: type, default, meaning."""
    lines = [
        "# Config keys",
        "",
        "Any key can be set by a config file or by `--config.section.key=value`; "
        "`--print_config` prints what a run takes. A section with a `name` has, beside "
        "its own keys, the options of what is chosen; they have pages of their own "
        f"({', '.join(f'[{key}]({key}.md)' for key in TITLES)}).",
        "",
    ]
    comments = _comments()
    top = [key for key, kind in _fields(Config).items() if not _is_section(kind)]
    lines += ["## config", ""]
    lines += _keys(Config, top, comments)
    for section, kind in _fields(Config).items():
        if not _is_section(kind):
            continue
        lines += [f"## config.{section}", "", _plain(inspect.getdoc(kind) or ""), ""]
        own = [key for key in _fields(kind) if key != "options"]
        lines += _keys(kind, own, comments)
    return "\n".join(lines)


def _fields(kind: type[BaseModel]) -> dict[str, type]:
    return {key: field.annotation for key, field in kind.model_fields.items()}  # type: ignore[misc]


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys(
    kind: type[BaseModel], keys: list[str], comments: dict[tuple[str, str], str]
) -> Iterator[str]:
    described = kind.model_json_schema()["properties"]
    for key in keys:
        default = _value(kind.model_fields[key].default)
        yield f"`{key}` = `{default}`"
        comment = comments.get((kind.__name__, key), "")
        yield _definition(comment, _type(described[key]))
        yield ""


def _value(default: object) -> str:
    """As on the command line."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _type(described: dict) -> str:
    """A JSON schema in words: `integer, at least 1`."""
    if "anyOf" in described:
        return " or ".join(map(_type, described["anyOf"]))
    if "enum" in described:
        return " | ".join(map(str, described["enum"]))
    if "const" in described:
        return str(described["const"])
    words = [described.get("type", "any value")]
    for bound, text in {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }.items():
        if described.get(bound) in (FLOAT32_MAX, INT32_MAX):
            continue  # what a program can hold
        if bound in described:
            words.append(f"{text} {described[bound]:.10g}")
    return ", ".join(words)


def _comments() -> dict[tuple[str, str], str]:
    """What stands behind a key of the schema, by class and key."""
    source = inspect.getsource(schema)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                _, mark, text = lines[item.end_lineno - 1].partition("  # ")  # type: ignore[operator]
                if mark:
                    found[node.name, item.target.id] = text
    return found


# ----------------------------------------------------------------- files of a run


def files_page() -> str:
    """The docstring of `runs/directory.py` as a page."""
    doc = inspect.getdoc(directory) or ""
    title, *blocks = re.split(r"\n\n", doc)
    lines = ["# Files of a run", "", _plain(" ".join(title.split())), ""]
    for block in blocks:
        head, *body = block.splitlines()
        if not body:  # a paragraph
            lines += [_plain(head), ""]
        elif head.startswith("    "):  # the files
            lines += _definitions(block.splitlines())
        elif all(line.startswith(" ") for line in body):
            lines += [f"## {head}", ""]
            if any(re.match(r" {4}\S.* {2,}\S", line) for line in body):
                lines += _definitions(body)
            else:
                lines += [_plain(" ".join(" ".join(body).split())), ""]
        else:
            lines += [_plain(" ".join(block.split())), ""]
    return "\n".join(lines)


def _definitions(body: list[str]) -> Iterator[str]:
    """Names on the left, what they mean on the right of two spaces or below."""
    names: list[str] = []
    text: list[str] = []
    for line in [*body, "    end"]:
        deeper = line.startswith(" " * 12)
        if deeper:
            text.append(line.strip())
            continue
        if names and text:
            yield ", ".join(f"`{name}`" for name in names)
            yield f": {_plain(' '.join(text))}"
            yield ""
            names, text = [], []
        left, _, right = line.strip().partition("  ")
        names += [name for name in re.split(r",\s*", left) if name]
        text += [right.strip()] if right else []
