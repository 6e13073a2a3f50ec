"""Fine-tuning: FedAvg, then the server trains the global model on clean samples.

The fine-tuning server of the released code of DROP (Syros et al. 2025, arXiv
2502.07011).
"""

from fedjax_sim.contracts.defense import (
    After,
    Cohort,
    Defense,
    GlobalModel,
    RootRequest,
    RoundContext,
    pipeline,
)
from fedjax_sim.defenses.parts.checks import check_range


def finetune(
    *, num_samples: int = 1000, momentum: float = 0.9, weight_decay: float = 0.005
) -> Defense:
    """Returns FedAvg with the server's own training after every round.

    The server trains as a client does, but for momentum and weight decay.

    Args:
      num_samples: clean samples of the server.
      momentum, weight_decay: of its training.

    Raises:
      InputError: for a number outside its range.
    """
    check_range("num_samples", num_samples, 1)
    check_range("momentum", momentum, 0, 1)
    check_range("weight_decay", weight_decay, 0)

    def tune(
        state: tuple[()], model: GlobalModel, cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], GlobalModel]:
        del cohort
        return state, context.root.train(model, context.key)

    return pipeline(
        after=After(lambda spec: (), tune),
        root=RootRequest(
            num_samples, balanced=True, momentum=momentum, weight_decay=weight_decay
        ),
    )
