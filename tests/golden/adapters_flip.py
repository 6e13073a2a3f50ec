"""Golden vectors of FLIP's trigger inversion, on a linear model."""

import jax.numpy as jnp
import numpy as np

from fedjax_sim.defenses.flip.trigger_inversion import Triggers, invert

Case = dict[str, np.ndarray]


def check_inversion(case: Case) -> None:
    """One trigger or, where the files say `targets`, two side by side."""
    weights, bias = jnp.asarray(case["weights"]), jnp.asarray(case["bias"])

    def logits(images):
        flat = (2.0 * images - 1.0).transpose(0, 3, 1, 2).reshape(len(images), -1)
        return flat @ weights.T + bias

    images = case["images01"]
    names = ("init_mask", "init_pattern", "expected_mask", "expected_pattern")
    masks = {name: case[name] for name in names}
    symmetric = "targets" in case
    if symmetric:
        if masks["init_mask"].shape[1] > 1:
            # A mask per channel: that of one channel, all channels one below another.
            join = lambda x: x.reshape(len(x), 1, -1, x.shape[-1])
            images, masks = join(images), {key: join(x) for key, x in masks.items()}
        targets = case["targets"]
        member = np.where(case["member_mask"] == 1, 0, 1)
        valid = np.ones(len(targets), bool)
        mask = np.clip(masks["init_mask"][:, 0], 0.1, 1.0)
        pattern, expected_pattern = masks["init_pattern"], masks["expected_pattern"]
        expected_mask = masks["expected_mask"][:, 0]
    else:
        source = int(case["source"])
        labels = case["labels"]
        targets = np.full(len(labels), case["target"])
        member = np.zeros(len(labels), int)
        valid = np.ones(len(labels), bool) if source < 0 else labels == source
        mask, pattern = masks["init_mask"][None], masks["init_pattern"][None]
        expected_mask = masks["expected_mask"][:1]  # the same for all channels
        expected_pattern = masks["expected_pattern"][None]
    found = invert(
        logits,
        jnp.asarray(images.transpose(0, 2, 3, 1)),
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
    np.testing.assert_allclose(found.triggers.mask, expected_mask, atol=2e-4)
    np.testing.assert_allclose(
        found.triggers.pattern.transpose(0, 3, 1, 2), expected_pattern, atol=2e-4
    )
    size = np.where(np.isfinite(found.size), found.size, 0.0)  # zeros without success
    np.testing.assert_allclose(size, expected_mask.sum((1, 2)), rtol=1e-4, atol=1e-4)
    if "source" in case and int(case["source"]) < 0:  # the file of a pair holds zeros
        np.testing.assert_allclose(found.loss_drop, case["expected_speed"], rtol=1e-3)


ADAPTERS = {"drop_family": {"flip_trigger": check_inversion}}
