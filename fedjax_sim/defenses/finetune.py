"""Fine-tuning: FedAvg, then the server trains the global model on clean samples.

The fine-tuning server of the released code of DROP (Syros et al. 2025, arXiv
2502.07011).
"""

from fedjax_sim.contracts.defense import (
    After,
    Cohort,
    Defense,
    RootRequest,
    RoundContext,
    root_of,
)
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.core.options import Count, Fraction, NonNegative, checked
from fedjax_sim.defenses.parts.pipeline import pipeline


@checked("defense")
def finetune(
    *,
    num_samples: Count = 1000,
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 0.005,
) -> Defense:
    """Returns FedAvg with the server's own training after every round.

    The server trains as a client does, but for momentum and weight decay.

    Args:
      num_samples: clean samples of the server.
      momentum, weight_decay: of the server's training.

    Raises:
      InputError: an option outside its range.
    """

    def tune(
        state: tuple[()], model: GlobalModel, cohort: Cohort, context: RoundContext
    ) -> tuple[tuple[()], GlobalModel]:
        del cohort
        return state, root_of(context).train(model, context.key)

    return pipeline(
        after=After(lambda spec: (), tune),
        root=RootRequest(
            num_samples, balanced=True, momentum=momentum, weight_decay=weight_decay
        ),
    )


ENTRY = Entry(
    finetune,
    paper="released code of Syros et al. 2025 (DROP)",
    oracle="clean samples, taken from the training set",
    weighs=True,
)
