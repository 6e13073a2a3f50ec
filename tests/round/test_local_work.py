"""The server's own training, for whoever tries its rule many times."""

import jax
import jax.numpy as jnp

from fedjax_sim.contracts.defense import Root
from fedjax_sim.contracts.federation import GlobalModel
from fedjax_sim.round.local_work import trained_once


def test_the_same_training_is_done_once_also_in_a_loop():
    calls = []

    def train(model, key):
        calls.append(key)
        return GlobalModel(model.params + 1, model.buffers)

    def run(params, keys):
        model = GlobalModel(params, jnp.zeros(0))
        root = Root(jnp.zeros(0), jnp.zeros(0), train)
        root = trained_once(root, model, keys[0])

        def turn(i, total):
            same = root.train(GlobalModel(model.params, model.buffers), keys[0])
            return total + same.params

        total = jax.lax.fori_loop(0, 5, turn, jnp.zeros(3))
        other = root.train(GlobalModel(total, model.buffers), keys[0])
        again = root.train(model, keys[1])
        return total, other.params, again.params

    total, other, again = jax.jit(run)(
        jnp.ones(3), list(jax.random.split(jax.random.key(0)))
    )
    assert len(calls) == 3  # once for the loop, with another model, with another key
    assert (total == 10).all() and (other == 11).all() and (again == 2).all()
