"""Inner product manipulation with the best factor for the server's rule."""

from jax import Array

from fedjax_sim.attacks.parts.line_search import Method
from fedjax_sim.attacks.parts.optimal import optimal_factor
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Fraction, NonNegative, Positive, checked


@checked("attack")
def optimal_ipm(
    *,
    method: Method = "line_maximize",
    evals: Count = 20,
    start: NonNegative = 0.0,
    step: Positive = 10.0,
    ratio: Fraction = 0.8,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """Every attacker sends -tau times the mean of the benign updates.

    El Mhamdi, Guerraoui, Rouault, "Distributed Momentum for Byzantine-resilient
    Stochastic Gradient Descent", ICLR 2021 (the line search: from memory (m)), for the
    direction of Xie, Koyejo, Gupta, UAI 2019. In every round tau is searched by trying
    the server's rule, which the attacker is told, on the updates of the round; what
    moves its answer farthest from the mean is sent.

    Args:
      method: what is tried once a step has failed: `line_maximize` looks on both sides
        of the best factor, `byzfl` (0.0.11) only above it.
      evals: of the rule, in a round.
      start: first factor that is tried.
      step: first step, doubled after each success.
      ratio: by which steps shrink after the first failure.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an option outside its range, an empty window; a rule that has a model
        for each group of clients.
    """
    return optimal_factor(
        line=line,
        method=method,
        evals=evals,
        start=start,
        step=step,
        ratio=ratio,
        start_round=start_round,
        end_round=end_round,
    )


def line(mean: Array, std: Array, tau: Array) -> Array:
    """Returns what is sent f32 [d] for the factor tau."""
    del std
    return -tau * mean


ENTRY = Entry(
    optimal_ipm,
    paper="El Mhamdi, Guerraoui, Rouault, ICLR 2021",
)
