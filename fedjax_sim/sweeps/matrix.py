"""A matrix: every combination of some axes, also those that cannot be.

A matrix file defines `get_matrix()`, and with it `sweep --layout=NAME` and `report
--layout=NAME`:

    def get_matrix() -> Matrix:
        return Matrix(
            base={"rounds": 30, ...},
            axes={
                "attack": {"none": {...}, "ipm": {"attack": {"name": "ipm"}}},
                "defense": {"krum": {"defense": {"name": "krum"}}},
            },
            repeats=seeds(3),
        )

What cannot go together is no mistake of the user's here: such a cell has no runs, and
the reason for it.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from fedjax_sim.core.errors import InputError, did_you_mean
from fedjax_sim.experiment.config import flatten
from fedjax_sim.experiment.config_files import configs_folder, resolve_variants
from fedjax_sim.experiment.sides import sides_of
from fedjax_sim.round.adversary import adversary
from fedjax_sim.sweeps.sweep import Point, Run, Sweep, expand

PIECES = "pieces"  # of `sweep --together`: how a matrix is carried out


class Matrix(NamedTuple):
    """What `get_matrix()` returns.

    Attributes:
      title: of the report.
      base: keys of all runs.
      axes: field -> label -> keys of the config.
      repeats: points of every cell, such as seeds.
      small: the labels of the small version, by field; other fields have all.
      exists: of {field: label}: whether there is such a cell at all.
    """

    title: str
    base: Mapping[str, Any]
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    repeats: Sequence[Point]
    small: Mapping[str, Sequence[str]] = {}
    exists: Callable[[Mapping[str, str]], bool] = lambda labels: True


class MatrixCell(NamedTuple):
    """A combination of labels."""

    labels: dict[str, str]  # by field
    point: dict[str, Any]
    refused: str | None  # why it has no runs


def matrices() -> list[str]:
    """The names of our matrices."""
    return ["matrix"]


def load_matrix(name: str) -> Matrix:
    """Calls `get_matrix()` of one of our files.

    Raises:
      InputError: there is none of that name.
    """
    if name not in matrices():
        raise InputError(
            f"--layout={name} does not exist; {did_you_mean(name, matrices())}"
        )
    path = configs_folder() / "sweeps" / f"{name}.py"
    spec = importlib.util.spec_from_file_location("fedjax_sim_matrix_file", path)
    assert spec is not None and spec.loader is not None  # of any .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_matrix()


def matrix_cells(
    matrix: Matrix, chosen: Sequence[str] = (), small: bool = False
) -> list[MatrixCell]:
    """Returns the cells of a matrix; which cannot be is found out here.

    Args:
      matrix: of `load_matrix`.
      chosen: "field=label" or "field=label,label": only these; all that are given of
        a field.
      small: only the labels of the small version.

    Raises:
      InputError: a field or label that the matrix does not have, or no cell left.
    """
    wanted = {
        field: list(matrix.small.get(field, axis) if small else axis)
        for field, axis in matrix.axes.items()
    }
    asked: dict[str, list[str]] = {}
    for text in chosen:
        field, _, labels = text.partition("=")
        if field not in wanted:
            hint = did_you_mean(field, wanted)
            raise InputError(f"--cells={text}: FIELD=LABEL[,LABEL]; {hint}")
        for label in labels.split(","):
            if label not in matrix.axes[field]:
                hint = did_you_mean(label, matrix.axes[field])
                raise InputError(f"--cells={text}: {hint}")
        asked.setdefault(field, []).extend(labels.split(","))
    for field, own in asked.items():
        wanted[field] = [label for label in matrix.axes[field] if label in own]
    found = []
    reasons: dict[str, str | None] = {}
    for combination in product(*wanted.values()):
        cell = dict(zip(wanted, combination, strict=True))
        if not matrix.exists(cell):
            continue
        found.append(cell_at(matrix, cell, reasons))
    if not found:
        raise InputError(f"--cells={','.join(chosen)}: the matrix has no such cell")
    return found


def cell_at(
    matrix: Matrix, labels: Mapping[str, str], reasons: dict[str, str | None]
) -> MatrixCell:
    """Returns the cell of these labels, one of each field.

    Args:
      matrix: of `load_matrix`.
      labels: by field.
      reasons: what is known already of sides that cannot go together; grows.
    """
    point: dict[str, Any] = {}
    for field, label in labels.items():
        point |= flatten(matrix.axes[field][label])
    sides = {k: v for k, v in point.items() if k.partition(".")[0] in _SIDES}
    key = str(sides)
    if key not in reasons:
        reasons[key] = _reason(matrix.base, sides)
    return MatrixCell(dict(labels), point, reasons[key])


_SIDES = ("attack", "defense", "client_defense")


def _reason(base: Mapping[str, Any], sides: Mapping[str, Any]) -> str | None:
    """Why an attack, a rule and a client side cannot go together; None: they can."""
    try:
        (config,) = resolve_variants(base, sides).values()
        attack, defense, _ = sides_of(config)({})
        adversary(attack, defense.groups)
    except InputError as error:
        return str(error)
    return None


def matrix_sweep(matrix: Matrix, cells: Sequence[MatrixCell]) -> Sweep:
    """Returns the runs of the cells that can be.

    Raises:
      InputError: none can.
    """
    points = [
        {**cell.point, **repeat}
        for cell in cells
        if cell.refused is None
        for repeat in matrix.repeats
    ]
    if not points:
        raise InputError(f"no cell can be run: {cells[0].refused}")
    return Sweep(matrix.base, points, together=PIECES)


def runs_of(
    matrix: Matrix, cell: MatrixCell, changes: Mapping[str, Any] | None = None
) -> list[Run]:
    """Returns the runs of a cell, none if it is refused."""
    if cell.refused is not None:
        return []
    points = [{**cell.point, **repeat} for repeat in matrix.repeats]
    return expand(Sweep(matrix.base, points), changes)
