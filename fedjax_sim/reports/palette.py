"""Colours of rows: safe for colour-blind readers, the same wherever a row is drawn.

The ten colours are M. A. Petroff's ("Accessible Color Sequences for Data
Visualization", 2021, arXiv:2107.02270), chosen for readers with any kind of colour
vision. A defence keeps its colour over figures and pages as long as the ten are enough:
it prefers the one that its name says, and takes the next free one where another row has
that already. What else tells rows of one defence apart is the dash.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2))  # lengths of line and gap, points


class Look(NamedTuple):
    """Of a row."""

    color: int  # of COLORS
    dash: int  # of DASHES


def looks(rows: Sequence[tuple[str, ...]], fields: Sequence[str]) -> list[Look]:
    """Returns a look for each row; 40 of them differ.

    Args:
      rows: of a table.
      fields: config keys (or names of a layout) of their labels; the defence decides on
        the colour where there is one, else the whole row.
    """
    place = next((i for i, f in enumerate(fields) if f.startswith("defense")), None)
    owners = [" / ".join(row) if place is None else row[place] for row in rows]
    colors = _colors(sorted(set(owners)))
    seen: dict[int, int] = {}
    found = []
    for owner in owners:
        color = colors[owner]
        found.append(Look(color, seen.get(color, 0) % len(DASHES)))
        seen[color] = seen.get(color, 0) + 1
    return found


def _colors(names: Sequence[str]) -> dict[str, int]:
    """A colour of each name, different ones while there are some left."""
    found: dict[str, int] = {}
    used: list[int] = []
    for name in names:
        if len(used) == len(COLORS):
            used = []
        first = _preferred(name)
        steps = ((first + step) % len(COLORS) for step in range(len(COLORS)))
        found[name] = next(color for color in steps if color not in used)
        used.append(found[name])
    return found


def _preferred(name: str) -> int:
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % len(COLORS)
