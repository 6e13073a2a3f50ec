"""The colours of rows on white and on black: seen, and told apart by all readers."""

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from fedjax_sim.reports.palette import COLORS

# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency" (2009), severity 1, for linear light.
VISION = {
    "all": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def light(color):
    """Linear RGB [3]."""
    x = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    """B. Ottosson's space, in which distances are those that are seen."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return axes @ np.cbrt(cones @ np.clip(rgb, 0, 1))


def contrast(one, other):
    """Of WCAG 2."""
    low, high = sorted(
        light(c) @ np.array([0.2126, 0.7152, 0.0722]) for c in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


def nearest(colors):
    """The least distance of two colours in any kind of vision."""
    return min(
        np.linalg.norm(oklab(seen @ light(a)) - oklab(seen @ light(b)))
        for seen in map(np.array, VISION.values())
        for a, b in itertools.combinations(colors, 2)
    )


@pytest.mark.parametrize(("scheme", "least"), [("light", 1.8), ("dark", 3.0)])
def test_colours_are_seen_and_told_apart(scheme, least):
    style = (resources.files("fedjax_sim.pages") / "static" / "page.css").read_text()
    parts = style.partition("@media (prefers-color-scheme: dark)")
    text = parts[0] if scheme == "light" else parts[2].partition("\n}")[0]
    changed = dict(re.findall(r"--(c\d|paper): (#\w{6})", text))
    colors = [changed.get(f"c{i}", color) for i, color in enumerate(COLORS)]

    assert min(contrast(color, changed["paper"]) for color in colors) > least
    assert nearest(colors) >= nearest(COLORS) > 0.06
