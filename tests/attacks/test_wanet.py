"""WaNet's noise mode: who is warped how, and which labels stay."""

import jax.numpy as jnp
import numpy as np
from attacks.views import make_spec

from fedjax_sim.attacks.wanet import wanet, with_noise
from fedjax_sim.contracts.client import ClientContext

ATTACKER = ClientContext(jnp.int32(2), jnp.bool_(True), jnp.int32(1), jnp.int32(0))


def test_noised_samples_are_the_first_that_are_not_poisoned():
    spec = make_spec()
    poisoned = np.zeros(40, bool)
    poisoned[[20, 21, 30]] = True
    plan = with_noise(poisoned, spec.partition, spec.malicious_ids, 2.0)
    np.testing.assert_array_equal(np.flatnonzero(plan == 1), [20, 21, 30])
    np.testing.assert_array_equal(np.flatnonzero(plan == 2), [22, 23, 24, 25, 31, 32])
    assert not (with_noise(poisoned, spec.partition, [2], 0.0) == 2).any()


def test_only_poisoned_samples_change_their_labels():
    poison = wanet(dpr=0.2, num_fields=3).poison(make_spec())
    ids, labels = jnp.arange(20, 30), jnp.full(10, 4)
    found = poison.decide(jnp.asarray(poison.plan), ids, labels, ATTACKER)
    np.testing.assert_array_equal(found.labels, [7, 7, *[4] * 8])
    np.testing.assert_array_equal(found.poisoned, [*[True] * 6, *[False] * 4])
    np.testing.assert_array_equal(found.trigger[:6], [0, 0, 2, 3, 1, 2])
    benign = ATTACKER._replace(malicious=jnp.bool_(False))
    found = poison.decide(jnp.asarray(poison.plan), ids, labels, benign)
    assert not found.poisoned.any() and (found.labels == 4).all()


def test_every_field_is_near_the_trigger_s_own():
    spec = make_spec()
    attack = wanet(num_fields=3)
    grids = np.asarray(attack.poison(spec).triggers.grid)
    np.testing.assert_array_equal(grids[0], attack.test(spec).trigger.grid)
    apart = np.abs(grids[1:] - grids[:1])
    assert apart.max() <= 1 / 28 + 1e-6 and apart.mean() > 0.2 / 28
    assert len({grid.tobytes() for grid in grids}) == 4
