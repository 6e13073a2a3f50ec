"""What the documentation says in code works: Python, commands, links, the site."""

import contextlib
import importlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.samples import (
    PLACEHOLDERS,
    blocks,
    commands,
    exists,
    links,
    pages,
    toctree,
)
from helpers import ROOT

from fedjax_sim.commands.flags import parse
from fedjax_sim.commands.main import COMMANDS
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config_files import load_file, resolve_variants
from fedjax_sim.papers import load_layout
from fedjax_sim.sweeps.matrix import load_matrix, matrices
from fedjax_sim.sweeps.sweep import expand, load_sweep

WITH_PYTHON = [page for page in pages() if blocks(page, "python")]
WITH_COMMANDS = [page for page in pages() if list(commands(page))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, as the reader does; its modules are importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(("mylab", "mine", "table")):
            del sys.modules[name]


def write_files(page: str, folder: Path) -> None:
    """Writes the blocks that begin with `# NAME.py`, and imports what they define."""
    for block in blocks(page, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:
            (folder / named[1]).write_text(block)
    importlib.invalidate_caches()


def run_python(page: str, folder: Path) -> dict:
    """Runs the Python of a page, one block after the other; returns its names."""
    write_files(page, folder)
    names: dict = {"__name__": "sample"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page}, Python block {number}", "exec"), names)
    return names


# Compiles four programs.
LONG = {"docs/library.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page in LONG else page
        for page in WITH_PYTHON
    ],
)
def test_python_samples_run(page, folder):
    names = run_python(page, folder)
    for name in ("get_config", "get_sweep"):
        if name in names:
            assert names[name]()


@pytest.mark.slow  # rules are compiled a few times
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_tests_in_samples_pass(page, folder):
    names = run_python(page, folder)
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_resolve(page, folder):
    """Flags, configs, keys, sweeps and layouts exist; the page's own rules fit."""
    write_files(page, folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, words in commands(page):
        module = importlib.import_module(COMMANDS[name])
        values = module.make_flags()
        given = [word for word in words if not PLACEHOLDERS.search(word)]
        changes = parse([name, *given], values, "", configurable=name != "list")
        if name == "run" and values.config:
            configs = resolve_variants(load_file(values.config), changes)
            if any(":" in value for value in map(str, changes.values())):
                build(next(iter(configs.values())))
        if name in ("sweep", "worst-case") and values.sweep:
            sweep = load_sweep(values.sweep)
            assert expand(sweep._replace(points=sweep.points[:1]), changes, [])
        if name in ("sweep", "report") and values.layout:
            load = load_matrix if values.layout in matrices() else load_layout
            load(values.layout)


def test_samples_are_found():
    """The README has both, and the commands that `.ci/run` and the reader start."""
    assert {"README.md", "docs/tutorial.md", "docs/extending.md"} <= set(WITH_PYTHON)
    assert "README.md" in WITH_COMMANDS
    text = pages()["README.md"]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert ci.replace(" -q", "") in text


def test_the_readme_stays_short():
    assert len(pages()["README.md"].splitlines()) < 150


@pytest.mark.parametrize("page", pages())
def test_links_resolve(page):
    assert [link for link in links(page) if not exists(page, link)] == []
    missing = [
        entry
        for entry in toctree(page)
        if not exists(page, f"{entry}.md") and not exists(page, f"{entry}.ipynb")
    ]
    assert missing == []


def test_every_page_is_in_the_contents():
    listed = {f"docs/{entry}.md" for entry in toctree("docs/index.md")}
    there = {page for page in pages() if page.startswith("docs/")}
    assert there - listed == {"docs/index.md"}


@pytest.mark.slow  # half a minute, and the notebooks run
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "docs", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "generated" / "defense.html").read_text()
    assert "num_byzantine" in page and "Blanchard" in page
