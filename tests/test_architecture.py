"""The picture of the package in the README is what the files' own imports say."""

import ast
import re
from pathlib import Path

import pytest
from helpers import ROOT

from fedjax_sim.attacks import ATTACKS
from fedjax_sim.client_defenses import CLIENT_DEFENSES
from fedjax_sim.defenses import DEFENSES
from fedjax_sim.participation import PARTICIPATIONS

PACKAGE = ROOT / "fedjax_sim"


def rooms() -> list[list[str]]:
    """The rooms in README's picture, from the top; those of a line are side by side."""
    text = (ROOT / "README.md").read_text()
    picture = re.search(r"^fedjax_sim/\n(.*?)^```", text, re.M | re.S)[1]
    lines = re.findall(r"^  ([a-z_]+/(?: +[a-z_]+/)*)", picture, re.M)
    return [[name.rstrip("/") for name in line.split()] for line in lines]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of each import of our own in a file, also in functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found += [(node.lineno, f"{node.module}.{a.name}") for a in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == "fedjax_sim"]


def upward(text_of: dict[Path, list[tuple[int, str]]], levels: list[list[str]]):
    """The imports that do not point down, as FILE:LINE imports NAME."""
    depth = {room: i for i, names in enumerate(levels) for room in names}
    wrong = []
    for path, found in text_of.items():
        own = path.relative_to(PACKAGE).parts[0]
        for line, name in found:
            other = name.split(".")[1]
            if other != own and depth[other] <= depth[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return wrong


def files() -> list[Path]:
    return [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE]


def test_every_room_is_in_the_picture():
    there = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert {room for names in rooms() for room in names} == there


def test_no_module_stands_beside_the_rooms():
    assert [p.name for p in PACKAGE.glob("*.py")] == ["__init__.py"]


def test_imports_point_down():
    assert upward({path: imports(path) for path in files()}, rooms()) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("core/rng.py", "fedjax_sim.numerics.flat"),  # up
        ("data/digits.py", "fedjax_sim.models"),  # beside
        ("round/training.py", "fedjax_sim.attacks.none"),
    ],
)
def test_an_import_that_points_up_is_found(path, name):
    found = upward({PACKAGE / path: [(3, name)]}, rooms())
    assert found == [f"fedjax_sim/{path}:3 imports {name}"]


# Rules whose names are words of their own, too.
WORDS = {"none", "backdoor", "median", "uniform", "explicit", "scaling"}
GENERIC = (
    "core numerics contracts round metrics experiment runs sweeps reports pages "
    "commands"
)


def test_generic_code_names_no_rule():
    rules = {*DEFENSES, *ATTACKS, *CLIENT_DEFENSES, *PARTICIPATIONS} - WORDS
    found = []
    for room in GENERIC.split():
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and node.value in rules:
                    found.append((path.name, node.value))
    # The default of the schema: federated learning without a defence.
    assert found == [("config.py", "fedavg")]


def test_launchers_are_thin():
    launchers = list((ROOT / "launch").glob("*.py"))
    assert len(launchers) >= 6
    for path in launchers:
        assert len(path.read_text().splitlines()) < 30, path
