"""How rates move over the rounds of a run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Mitigation(NamedTuple):
    """How fast a backdoor fades after a burst (LeadFL).

    Attributes:
      starts: first rounds (from 0) of the episodes above the threshold.
      lengths: rounds each of them lasted; None: it never ended.
      mean_rounds: average length of those that ended; None if none did.
      by_phase: average success by position in the cycle.
      recovery_rate: 1 / mean_rounds.
      recovery_slope: fall of `by_phase` from its highest point to its last, in
        percentage points per round; None if it is highest at the end.
    """

    starts: list[int]
    lengths: list[int | None]
    mean_rounds: float | None
    by_phase: list[float]
    recovery_rate: float | None
    recovery_slope: float | None


def mitigation(
    success: np.ndarray, *, threshold: float = 50.0, cycle: int = 10
) -> Mitigation:
    """Finds the episodes in which the attack success exceeds `threshold`.

    Zhu, Roos, Chen 2023 (LeadFL), mitigation rounds; definition as in the report of
    Guthmann and Tan: maximal runs above the threshold.

    Args:
      success: f32 [T], percent, one per round.
      threshold: percent.
      cycle: rounds of a burst and its pause.
    """
    above = np.concatenate([[False], np.asarray(success) > threshold, [False]])
    starts = np.flatnonzero(~above[:-1] & above[1:])
    ends = np.flatnonzero(above[:-1] & ~above[1:])
    lengths = [
        None if end == len(success) else int(end - start)
        for start, end in zip(starts, ends, strict=True)
    ]
    finished = [length for length in lengths if length is not None]
    mean_rounds = float(np.mean(finished)) if finished else None
    by_phase = [
        float(np.mean(success[phase::cycle]))
        for phase in range(min(cycle, len(success)))
    ]
    pause = len(by_phase) - 1 - int(np.argmax(by_phase))
    return Mitigation(
        starts=starts.tolist(),
        lengths=lengths,
        mean_rounds=mean_rounds,
        by_phase=by_phase,
        recovery_rate=1 / mean_rounds if mean_rounds else None,
        recovery_slope=(max(by_phase) - by_phase[-1]) / pause if pause else None,
    )


class Consistency(NamedTuple):
    """How steadily an attack succeeds while the model is of use (DROP)."""

    rounds: int  # |K|, evaluated rounds with an acceptable MTA
    least_asr: float | None  # lowest ASR of them, percent; None if there are none
    most_asr: float | None  # highest, what a defender has to fear at any stop


def consistency(
    mta: Sequence[float | None], asr: Sequence[float | None], least_mta: float
) -> Consistency:
    """The left sides of DROP's equations 2 and 3 (Syros et al. 2025, section 2.2).

    Between two evaluated rounds it may be worse.

    Args:
      mta, asr: percent, one per evaluated round; undefined ones are passed over.
      least_mta: lambda, the MTA from which on a round counts.
    """
    pairs = zip(mta, asr, strict=True)
    known = [(m, a) for m, a in pairs if m is not None and a is not None]
    counted = [a for m, a in known if m >= least_mta]
    least, most = (f(counted, default=None) for f in (min, max))
    return Consistency(len(counted), least, most)
