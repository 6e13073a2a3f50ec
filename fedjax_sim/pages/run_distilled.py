"""What DROP's newest distillation did, from the record in a run's checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_sim.pages.numbers import short

_MARK = ".clone_accuracy"
_CURVES = ("generator", "clone", "critic", "replay")


class Distilled(NamedTuple):
    """The record, for a page."""

    text: str
    panels: list[dict[str, Any]]  # as of `run_rounds.progress_curves`


def distilled(arrays: Mapping[str, np.ndarray]) -> Distilled | None:
    """Returns what the newest distillation did; None: there was none.

    Args:
      arrays: of a checkpoint, by their paths in the state.
    """
    found = [path.removesuffix(_MARK) for path in arrays if path.endswith(_MARK)]
    if not found or not int(arrays[f"{found[0]}.round"]):
        return None
    record = lambda name: arrays[f"{found[0]}.{name}"]
    clone, aggregate = (
        100 * float(record(f"{name}_accuracy")) for name in ("clone", "aggregate")
    )
    taught = np.flatnonzero(record("taught"))
    who = ", ".join(map(str, taught)) if len(taught) else "none: the aggregate taught"
    done, planned = int(record("iterations")), int(record("planned"))
    text = (
        f"After round {int(record('round'))}, {done} of {planned} iterations. On the "
        f"server's own samples the clone is right in {clone:.1f} %, the aggregate in "
        f"{aggregate:.1f} %. Clients who taught: {who}."
    )
    points = len(record(f"curves.{_CURVES[0]}"))
    # Of the iterations that fall on a point the last one stays.
    at = [-(-(k + 1) * planned // points) for k in range(points)]
    panels = []
    for title, names in (("Clone", ("clone", "replay")), ("GAN", _CURVES[::2])):
        curves = {name: record(f"curves.{name}") for name in names}
        shown = [k for k in range(points) if np.isfinite(curves[names[0]][k])]
        lines = [
            {"name": f"{name} loss", "values": [short(float(curve[k])) for k in shown]}
            for name, curve in curves.items()
        ]
        places = [min(at[k], done) for k in shown]
        panels.append(
            {"title": title, "axis": "iteration", "rounds": places, "lines": lines}
        )
    return Distilled(text, panels)
