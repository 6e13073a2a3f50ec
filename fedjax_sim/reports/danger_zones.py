"""Maps of danger zones: under which learning configuration does a backdoor succeed?

Syros et al. 2025 (DROP), Figures 2 and 6: learning rate by batch size, a panel for each
number of local epochs, coloured by the ASR where the model is of use.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedjax_sim.papers.cells import format_label
from fedjax_sim.reports.figures import svg
from fedjax_sim.reports.render import label
from fedjax_sim.reports.store import Row, varying
from fedjax_sim.reports.tables import SEEDS

AXES = ("client_lr", "client_batch_size", "client_epochs")
_COLORS = matplotlib.colormaps["viridis"]


class Zones(NamedTuple):
    """The map of one defence (and of whatever else differs), rates in percent."""

    name: str
    # (learning rate, batch size, epochs) -> mean MTA and ASR over the seeds
    cells: dict[tuple[float, int, int], tuple[float, float]]


def zones(runs: Sequence[Row]) -> list[Zones]:
    """Groups finished runs, rows of the store, into maps."""
    known = [run for run in runs if run["mta"] is not None and run["asr"] is not None]
    found = []
    for name, own in _groups(known).items():
        cells: dict[tuple[float, int, int], list[Row]] = {}
        for run in own:
            cells.setdefault(tuple(run[key] for key in AXES), []).append(run)
        means = {
            place: (mean(r["mta"] for r in same), mean(r["asr"] for r in same))
            for place, same in cells.items()
        }
        found.append(Zones(name, means))
    return found


class Ranked(NamedTuple):
    """A learning configuration in the danger zone."""

    name: str  # of its map
    lr: float
    batch_size: int
    epochs: int
    mta: float
    asr: float


def ranking(runs: Sequence[Row], least_mta: float, least_asr: float) -> list[Ranked]:
    """The danger zones (DROP, Table 2): useful models in which the backdoor succeeds.

    Args:
      runs: rows of the store.
      least_mta, least_asr: lambda and tau, percent.

    Returns:
      Of every map, by falling ASR, then falling MTA.
    """
    found = [
        Ranked(one.name, *place, mta, asr)
        for one in zones(runs)
        for place, (mta, asr) in one.cells.items()
        if mta >= least_mta and asr >= least_asr
    ]
    return sorted(found, key=lambda r: (r.name, -r.asr, -r.mta))


def danger_zones(
    runs: Sequence[Row], least_mta: float, least_asr: float
) -> bytes | None:
    """Draws a line of panels for each map.

    A cell shows the ASR; it is hatched and shows the MTA where that is below
    `least_mta`, framed where the ASR reaches `least_asr` and the MTA `least_mta` (the
    danger zone), and is empty where no run has finished.

    Args:
      runs: rows of the store.
      least_mta, least_asr: lambda and tau, percent.

    Returns:
      SVG; None unless both learning rate and batch size vary.
    """
    maps = zones(runs)
    places = [place for one in maps for place in one.cells]
    if not places:
        return None
    rates, sizes, epochs = (sorted(set(x)) for x in zip(*places, strict=True))
    if len(rates) < 2 or len(sizes) < 2:
        return None
    width = max(0.62 * len(rates), 1.7) * len(epochs) + 1.8
    height = (0.4 * len(sizes) + 0.6) * len(maps) + 0.9
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(
        len(maps), len(epochs), squeeze=False, sharex=True, sharey=True
    )
    for line, (name, cells) in zip(axes, maps, strict=True):
        for axis, number in zip(line, epochs, strict=True):
            for (rate, size, own), (mta, asr) in cells.items():
                if own == number:
                    place = rates.index(rate), sizes.index(size)
                    useful = mta >= least_mta
                    _cell(axis, place, mta, asr, useful)
                    if useful and asr >= least_asr:
                        _frame(axis, place)
            axis.set_title(f"{name}\n{number} epoch{'s' * (number != 1)}", fontsize=8)
            axis.set_xticks(range(len(rates)), [f"{x:g}" for x in rates], fontsize=8)
            axis.set_yticks(range(len(sizes)), map(str, sizes), fontsize=8)
            axis.set_xlim(-0.5, len(rates) - 0.5)
            axis.set_ylim(-0.5, len(sizes) - 0.5)
            axis.tick_params(length=0)
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("batch size", fontsize=9)
    colors = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 100), _COLORS)
    figure.colorbar(colors, ax=axes, label="ASR %", aspect=30)
    text = (
        f"ASR %; framed: danger zone, ASR from {least_asr:g} % and MTA from "
        f"{least_mta:g} % on; hatched: MTA (shown) below that"
    )
    figure.suptitle(text, fontsize=9)
    return svg(figure)


def _groups(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Runs by the keys in which they differ, but for the map's own and the seeds."""
    seeds = [key.replace(".", "_") for key in SEEDS]
    keys: list[str] = []
    for key in varying(list(runs)):
        # An option of a defence tells nothing beside its name.
        finer = len(_places(runs, [*keys, key])) > len(_places(runs, keys))
        if finer and key not in (*AXES, *seeds):
            keys.append(key)
    groups: dict[str, list[Row]] = {}
    for run in sorted(runs, key=lambda run: str(_place(run, keys))):
        parts = [
            format_label(run[key])
            if key.endswith("_name")
            else f"{label(key)} {format_label(run[key])}"
            for key in keys
        ]
        groups.setdefault(", ".join(parts) or run["defense_name"], []).append(run)
    return groups


def _place(run: Row, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(run[key]) for key in keys)


def _places(runs: Sequence[Row], keys: Sequence[str]) -> set[tuple[str, ...]]:
    return {_place(run, keys) for run in runs}


def _cell(
    axis: Axes, place: tuple[int, int], mta: float, asr: float, useful: bool
) -> None:
    look: dict[str, Any] = {"facecolor": _COLORS(asr / 100), "edgecolor": "white"}
    if not useful:
        look = {"facecolor": "white", "edgecolor": "0.7", "hatch": "////"}
    corner = place[0] - 0.5, place[1] - 0.5
    axis.add_patch(Rectangle(corner, 1, 1, linewidth=0.8, **look))
    axis.text(
        *place,
        f"{asr if useful else mta:.0f}",
        ha="center",
        va="center",
        fontsize=8,
        color="white" if useful and asr < 60 else "black",
        bbox=None if useful else {"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _frame(axis: Axes, place: tuple[int, int]) -> None:
    corner = place[0] - 0.44, place[1] - 0.44
    frame = Rectangle(corner, 0.88, 0.88, fill=False, edgecolor="tab:red", linewidth=2)
    axis.add_patch(frame)
