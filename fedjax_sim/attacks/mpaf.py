"""MPAF: fake clients drag the global model back to where it began."""

import jax.numpy as jnp

from fedjax_sim.attacks.parts.known_updates import sent_by_all
from fedjax_sim.attacks.parts.options import active_rounds
from fedjax_sim.contracts.attack import Attack
from fedjax_sim.contracts.entry import Entry
from fedjax_sim.core.options import Count, Traced, checked


@checked("attack")
def mpaf(
    *,
    scale: Traced[float] = 3.0,
    start_round: Count = 1,
    end_round: Count | None = None,
) -> Attack:
    """MPAF: every attacker sends scale (w_0 - w), w_0 the initial global model.

    Cao, Gong, "MPAF: Model Poisoning Attacks to Federated Learning based on Fake
    Clients", CVPR Workshops 2022. The original drives the global model to any base
    model; FedREDefense (Xie et al. 2024) takes the initial one and a scale of 3. It
    needs neither data nor training, only the broadcast models.

    Args:
      scale: how far beyond the base model.
      start_round, end_round: attack from `start_round` (counted from 1) until before
        `end_round`; None never ends.

    Raises:
      InputError: an empty window.
    """

    def observe(base, round_index, global_params):
        return jnp.where(round_index == 1, global_params, base)

    def craft(base, view):
        return base, sent_by_all(scale * (base - view.global_params), view)

    return Attack(
        knowledge=(),
        init=lambda spec: jnp.zeros(spec.layout.size),
        active=active_rounds(start_round, end_round),
        observe=observe,
        craft=craft,
        trains=False,
    )


ENTRY = Entry(
    mpaf,
    paper="Cao, Gong, CVPR Workshops 2022",
)
