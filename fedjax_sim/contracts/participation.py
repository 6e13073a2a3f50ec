"""Who takes part in a round: a pure function of the round."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array


class Participation(NamedTuple):
    """A schedule of cohorts of `cohort_size` clients.

    `sample(key, round, malicious bool [N], eligible bool [N]) -> (ids i32 [n], present
    bool [n])`. Ids are distinct and ascending, so that position in the cohort breaks
    ties by client id. Where fewer clients are eligible than asked for, all of them take
    part and the remaining places are not `present`.

    `uniform`: all cohorts of eligible clients are equally likely, so that the number of
    malicious clients in one is hypergeometric.
    """

    cohort_size: int
    sample: Callable[[Array, Array, Array, Array], tuple[Array, Array]]
    uniform: bool = False
