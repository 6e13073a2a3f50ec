"""What the pages of the documentation say in code: blocks, commands, links."""

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from helpers import ROOT

sys.path.append(str(ROOT / "docs"))  # as Sphinx does
import generated_pages

# Names in commands for what the reader has.
PLACEHOLDERS = re.compile(r"\b(DIR|FILE|OUT|HOST0?|I|KEY|VALUE|OPTION|MODULE|RUN)\b")


@cache
def pages() -> dict[str, str]:
    """The text of every page, by its path below the checkout."""
    docs = ROOT / "docs"
    written = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs.rglob("*.md")]
    found = {
        str(path.relative_to(ROOT)): path.read_text()
        for path in written
        if path.exists() and not {"_build", "generated"} & set(path.parts)
    }
    made = generated_pages.pages()
    return found | {f"docs/generated/{name}": text for name, text in made.items()}


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language, in their order."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, pages()[page], re.M | re.S)


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """(command, flags) of each of our commands in the shell samples of a page.

    A line of flags alone belongs to `run`.
    """
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                name, words = _command(shlex.split(part, comments=True))
                if name:
                    yield name, [word for word in words if word.startswith("-")]


def _command(words: list[str]) -> tuple[str | None, list[str]]:
    if words and words[0].startswith("--config"):
        return "run", words
    for i, word in enumerate(words):
        launcher = re.fullmatch(r"(?:.*/)?launch/(\w+)\.py", word)
        if launcher:
            return launcher[1].replace("_", "-"), words[i + 1 :]
        if word == "fedjax-sim":
            return words[i + 1], words[i + 2 :]
    return None, []


def links(page: str) -> Iterator[str]:
    """Where a page links to, outside of its code, but not into the web."""
    text = re.sub(r"^```.*?^```$", "", pages()[page], flags=re.M | re.S)
    text = re.sub(r"`[^`]*`(?!\])", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def toctree(page: str) -> Iterator[str]:
    """The pages that a page has in its tables of contents; a pattern stands for all."""
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", pages()[page], re.M | re.S):
        for entry in block.splitlines():
            if "*" in entry:
                folder = (ROOT / page).parent
                yield from (path.stem for path in sorted(folder.glob(f"{entry}.md")))
            elif entry and entry[0] != ":":
                yield entry


def anchors(page: str) -> set[str]:
    """What a link may say behind `#`, as headings are turned into anchors."""
    text = re.sub(r"^```.*?^```$", "", pages()[page], flags=re.M | re.S)
    heads = re.findall(r"^#{1,3} (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def exists(page: str, target: str) -> bool:
    """Whether there is what a page links to."""
    path, _, anchor = target.partition("#")
    place = page
    if path:
        place = str((ROOT / page).parent.joinpath(path).resolve().relative_to(ROOT))
    if anchor and anchor not in anchors(place):
        return False
    return place in pages() or Path(ROOT / place).exists()
