"""Whether a rule from outside listens to clients of weight 0."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedjax_sim.core import distributed
from fedjax_sim.core.errors import InputError
from fedjax_sim.round import federation
from fedjax_sim.round.federation import Parts, Sent
from fedjax_sim.round.state import Inputs

_SENT = (1.0, 1e30)  # by a client that is not there


def refuse_influence_of_absent(parts: Parts, inputs: Inputs) -> None:
    """Lets the rule judge random updates twice; one client, absent, sends another.

    Our own rules are tested for it; what comes from elsewhere may not be.

    Raises:
      InputError: the aggregate, or the state of the rule, is another then.
    """
    n = parts.spec.cohort_size
    if n < 2:
        return
    d, b = parts.network.layout.size, parts.network.buffer_layout.size
    rows = np.random.default_rng(0).standard_normal((n, d + b), np.float32)

    @jax.jit  # of arguments, not constants: they are as large as in a run
    def judge(inputs: Inputs, rows: Array, size: float):
        state = federation.init(parts, inputs)
        opened = federation.open_round(parts, state, inputs)
        opened = opened._replace(present=jnp.ones(n, bool).at[0].set(False))
        rows = rows.at[0].set(size)
        sent = Sent(
            updates=rows[:, :d],
            buffers=rows[:, d:],
            losses=jnp.zeros(n),
            acted=jnp.zeros(n, bool),
            attack=opened.attack,
            clients=state.clients,
            momentum=state.momentum,
        )
        judged = federation.defend(parts, state, opened, sent)
        return judged.aggregate, judged.defense

    inputs = distributed.local(inputs)
    found = [jax.tree.leaves(judge(inputs, rows, size)) for size in _SENT]
    for a, b in zip(*found, strict=True):
        if not np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise InputError(
                "config.defense.name: a client of weight 0 has influence on the "
                "aggregate or on the state of the rule; it must be as good as absent"
            )
