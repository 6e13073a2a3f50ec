"""Numbers for scripts: short, and never more of them than a page can carry."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def short(value: Any, digits: int = 4) -> float | int | None:
    """A number with so many significant digits; None where it is not finite."""
    if value is None or isinstance(value, bool):
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def thinned(places: Sequence[int], most: int) -> list[int]:
    """At most so many of some places, evenly, the first and the last among them."""
    if len(places) <= most:
        return list(places)
    chosen = np.unique(np.linspace(0, len(places) - 1, max(most, 2)).round())
    return [places[int(i)] for i in chosen]
