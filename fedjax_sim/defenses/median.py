"""Coordinate-wise median.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates", ICML 2018, Definition 1 and Algorithm 1 (option I).
"""

from functools import partial
from typing import Literal

from fedjax_sim.contracts.defense import Defense
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import checked
from fedjax_sim.defenses.parts.pipeline import pipeline
from fedjax_sim.defenses.parts.reductions import coordinatewise
from fedjax_sim.numerics import order_statistics

Variant = Literal["paper", "authors"]


@checked("defense")
def median(*, variant: Variant = "paper") -> Defense:
    """Returns the median of the surviving clients in each coordinate.

    Args:
      variant: for an even number of clients `paper` takes the mean of the two middle
        values; `authors` the smaller one, as the released code of DROP and of
        FedREDefense does (torch.median).

    Raises:
      InputError: an option outside its range.
    """
    even: order_statistics.Even = "midpoint" if variant == "paper" else "lower"
    return pipeline(reduce=coordinatewise(partial(order_statistics.median, even=even)))


ENTRY = Entry(
    median,
    paper="Yin et al., ICML 2018",
)
