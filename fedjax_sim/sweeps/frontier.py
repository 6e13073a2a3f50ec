"""What harm is to be had at which cost of accuracy: the frontier of a search."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from fedjax_sim.sweeps.worst_case import Outcome


class Point(NamedTuple):
    """A configuration that no other beats in both; rates in percent."""

    settings: dict[str, Any]
    cost: float  # accuracy below the most accurate configuration of the defence
    cost_std: float | None  # sample standard deviation over the seeds; None below two
    harm: float  # ASR, or accuracy lost to the attack
    harm_std: float | None


def frontier(outcomes: Sequence[Outcome]) -> list[Point]:
    """Returns the configurations of most harm for their cost, the cheapest first.

    The cost is in the accuracy that says whether a configuration is acceptable: without
    attack where that was run, else with it.

    Args:
      outcomes: of runs of one length; those with failed runs are left out.
    """
    known = [found for found in outcomes if found.by_seed]
    if not known:
        return []
    best = max(known, key=lambda found: mean(mta for mta, _ in found.by_seed)).by_seed
    points = [_point(found, best) for found in known]
    points.sort(key=lambda point: (point.cost, -point.harm))
    kept: list[Point] = []
    for point in points:
        if not kept or point.harm > kept[-1].harm:
            kept.append(point)
    return kept


def _point(found: Outcome, best: Sequence[tuple[float, float]]) -> Point:
    paired = len(best) == len(found.by_seed)
    reference = [mta for mta, _ in best]
    if not paired:
        reference = [mean(reference)] * len(found.by_seed)
    costs = [
        most - mta for most, (mta, _) in zip(reference, found.by_seed, strict=True)
    ]
    harms = [harm for _, harm in found.by_seed]
    return Point(
        found.candidate.settings, mean(costs), _std(costs), mean(harms), _std(harms)
    )


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
