"""f: how many clients a cohort needs for it, and a rule that is told a traced one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.parts.byzantine import check_quorum
from fedjax_sim.defenses.trimmed_mean import trimmed_mean


def test_too_many_byzantine_clients_are_refused(make_spec):
    check_quorum(make_spec(9), 3, 2, 3)
    with pytest.raises(InputError, match="num_byzantine = 4 must be at most 3 in a"):
        check_quorum(make_spec(9), 4, 2, 3)


def test_a_sweep_over_f_compiles_once(make_cohort, make_context, make_spec):
    cohort = make_cohort([[1.0], [2.0], [6.0], [7.0], [100.0]])
    context, spec = make_context(1), make_spec(5, num_params=1)

    def update(f):
        defense = trimmed_mean(num_byzantine=f)
        _, _, result = defense.aggregate(defense.init(spec), cohort, context)
        return result.update[0]

    updates = jax.jit(jax.vmap(update))(jnp.arange(3))
    np.testing.assert_allclose(updates, [23.2, 5, 6], rtol=1e-6)
