"""Golden vectors of FLIP's trigger inversion, on a linear model."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.defenses.flip.trigger_inversion import Triggers, invert

Case = dict[str, np.ndarray]


def check_inversion(case: Case) -> None:
    weights, bias = jnp.asarray(case["weights"]), jnp.asarray(case["bias"])

    def logits(images):
        flat = (2.0 * images - 1.0).transpose(0, 3, 1, 2).reshape(len(images), -1)
        return flat @ weights.T + bias

    images = jnp.asarray(case["images01"].transpose(0, 2, 3, 1))
    symmetric = "targets" in case
    if symmetric:
        # Two triggers with a mask per channel; the images have one channel.
        targets = case["targets"]
        member = np.where(case["member_mask"] == 1, 0, 1)
        valid = np.ones(len(targets), bool)
        mask = np.clip(case["init_mask"][:, 0], 0.1, 1.0)
        pattern = case["init_pattern"]
    else:
        source = int(case["source"])
        labels = case["labels"]
        targets = np.full(len(labels), case["target"])
        member = np.zeros(len(labels), int)
        valid = np.ones(len(labels), bool) if source < 0 else labels == source
        mask, pattern = case["init_mask"][None], case["init_pattern"][None]
    found = invert(
        logits,
        images,
        jnp.asarray(targets),
        jnp.asarray(member),
        jnp.asarray(valid),
        Triggers(jnp.asarray(mask), jnp.asarray(pattern.transpose(0, 2, 3, 1))),
        steps=int(case["steps"]),
        cost=float(case["init_cost"]),
        success=float(case["success_threshold"]),
        average=not symmetric,
        key=None,
        learning_rate=float(case["learning_rate"]),
    )
    expected_mask, expected_pattern = case["expected_mask"], case["expected_pattern"]
    if symmetric:
        expected_mask = expected_mask[:, 0]
    else:
        expected_mask, expected_pattern = expected_mask[:1], expected_pattern[None]
    np.testing.assert_allclose(found.triggers.mask, expected_mask, atol=2e-4)
    np.testing.assert_allclose(
        found.triggers.pattern.transpose(0, 3, 1, 2), expected_pattern, atol=2e-4
    )
    np.testing.assert_allclose(
        found.size, expected_mask.sum((1, 2)), rtol=1e-4, atol=1e-4
    )
    if "source" in case and int(case["source"]) < 0:  # the file of a pair holds zeros
        np.testing.assert_allclose(found.loss_drop, case["expected_speed"], rtol=1e-3)


ADAPTERS = {"drop_family": {"flip_trigger": check_inversion}}
