"""Templates, scripts and styles: what every page is made of.

A page is one file that opens offline. Whatever it shows of a results folder goes
through Jinja's escaping, or through `as_json`, which leaves no `<` in a script.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedjax_sim.reports.palette import COLORS, DASHES

_FOLDER = resources.files("fedjax_sim.pages") / "static"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fedjax_sim.pages"),
        autoescape=True,
        undefined=StrictUndefined,  # a field that is not there is a mistake of ours
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"style": style, "script": script, "colors": COLORS}
    made.filters["json"] = as_json
    return made


def page(template: str, **context: Any) -> str:
    """Returns a template of the folder `templates`, filled."""
    return _environment().get_template(template).render(context)


def as_json(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def style(*names: str) -> Markup:
    """The named style sheets, with the palette as variables."""
    palette = "".join(f"--c{i}:{color};" for i, color in enumerate(COLORS))
    texts = [f":root{{{palette}}}", *map(_read, names)]
    return Markup("\n".join(texts))


def script(*names: str) -> Markup:
    """The named scripts."""
    dashes = f"const DASHES = {json.dumps(DASHES)};"
    return Markup("\n".join([dashes, *map(_read, names)]))


def _read(name: str) -> str:
    return (_FOLDER / name).read_text()


@cache
def vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one module, 0.9 MB, which sets `vegaEmbed`.

    Bundled by `vl-convert-python`, whose version says which. A module, for the names of
    its inside would be those of the page in a plain script.
    """
    import vl_convert  # loads a JavaScript engine

    # In a text of JavaScript the two spellings are the same.
    text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(text.replace("</script", "<\\/script"))
