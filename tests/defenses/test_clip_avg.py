"""Clip-Averaging, alone and of outliers only."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.errors import InputError
from fedjax_sim.defenses.clip_avg import clip_avg, decayed_bound
from fedjax_sim.defenses.iqr_clip_avg import iqr_clip_avg

# Over lr * steps = 0.5 the lengths are 2, 4, 6, 8 and 200.
UPDATES = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0], [100.0, 0.0]]
STEPS = {"lr": 0.1, "local_steps": 5}


def test_the_bound_decays():
    bounds = [float(decayed_bound(jnp.int32(r), 8.0, 0.5)) for r in (1, 4, 16)]
    np.testing.assert_allclose(bounds, [8, 4, 2], rtol=1e-6)


def test_everybody_is_clipped(one_round):
    defense = clip_avg(clip_norm=8.0, clip_decay=0.5, **STEPS)
    judged, result = one_round(defense, UPDATES, context={"round": jnp.int32(4)})
    factors = [1, 1, 2 / 3, 0.5, 0.02]
    np.testing.assert_allclose(judged.scores["clip_factor"], factors, rtol=1e-5)
    np.testing.assert_allclose(result.update, [1, 0.8], rtol=1e-5)


def test_only_outliers_are_clipped(one_round):
    defense = iqr_clip_avg(clip_norm=2.0, **STEPS)
    judged, _ = one_round(defense, UPDATES)
    # Quartiles 4 and 8: fence 9.2.
    assert judged.scores["flagged"].tolist() == [False] * 4 + [True]
    factors = [1, 1, 1, 1, 0.01]
    np.testing.assert_allclose(judged.scores["clip_factor"], factors, rtol=1e-5)


def test_as_printed_divides_by_the_last_client(one_round):
    defense = iqr_clip_avg(variant="as_printed", clip_norm=2.0, **STEPS)
    judged, _ = one_round(defense, UPDATES, ids=[0, 9, 3, 4, 5])
    factors = [1, 1, 1, 1, 0.5]
    np.testing.assert_allclose(judged.scores["clip_factor"], factors, rtol=1e-5)


@pytest.mark.parametrize("factory", [clip_avg, iqr_clip_avg])
@pytest.mark.parametrize(
    ("key", "value"), [("clip_norm", 0), ("clip_decay", -1), ("local_steps", 0)]
)
def test_bad_arguments_are_refused(factory, key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        factory(**{key: value})
