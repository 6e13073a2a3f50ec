"""The layout of an accelerator, from evidence: `layouts.json` beside this file.

`python -m benchmarks.layouts` writes the table: for a target, a network and a cohort
the cycles of a round, as the compiler estimates them.
"""

import json
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from fedjax_sim.contracts.model import Lowering
from fedjax_sim.round.execution import Strategy, parse_strategy


class Choice(NamedTuple):
    """How convolutions are computed, and how clients are stacked."""

    lowering: Lowering
    strategy: Strategy


# Without evidence: a batched matmul of stacked clients' patches competes with a grouped
# convolution, whose gradient is known to be slow; eight clients bound the memory.
PRIOR = Choice("patches", Strategy(8))


@cache
def evidence() -> list[dict[str, Any]]:
    """The rows of the table; see `benchmarks/layouts.py`."""
    path = resources.files("fedjax_sim.experiment").joinpath("layouts.json")
    return json.loads(path.read_text())


def choose(backend: str, network: str) -> Choice:
    """Returns the layout of the least cost on a backend (gpu or tpu).

    Args:
      backend: of the target.
      network: a name of `config.model`; of one that was never tried, the layout that
        costs least for those that were, in proportion to the best of each.
    """
    rows = [row for row in evidence() if row["backend"] == backend]
    if not rows:
        return PRIOR
    own = [row for row in rows if row["network"] == network] or rows
    best = {
        name: min(row["cycles"] for row in own if row["network"] == name)
        for name in {row["network"] for row in own}
    }
    costs: dict[tuple[Lowering, str], list[float]] = {}
    for row in own:
        layout = row["lowering"], row["clients"]
        costs.setdefault(layout, []).append(row["cycles"] / best[row["network"]])
    # A layout counts where it was tried for as many networks as any other.
    tried = max(map(len, costs.values()))
    lowering, clients = min(
        (layout for layout, ratios in costs.items() if len(ratios) == tried),
        key=lambda layout: sum(costs[layout]),
    )
    return Choice(lowering, parse_strategy(clients))
