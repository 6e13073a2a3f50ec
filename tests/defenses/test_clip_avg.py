"""Clip-Averaging, alone and of outliers only."""

from types import SimpleNamespace

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


def test_rate_and_steps_are_those_of_the_run(one_round):
    """Each client's own steps: the last one makes ten times as many."""
    steps = jnp.array([5.0, 5.0, 5.0, 5.0, 50.0])
    context = {"round": jnp.int32(4), "local_lr": jnp.float32(0.1)}
    context["local_steps"] = steps
    judged, _ = one_round(clip_avg(clip_norm=8.0), UPDATES, context=context)
    factors = [1, 1, 2 / 3, 0.5, 0.2]
    np.testing.assert_allclose(judged.scores["clip_factor"], factors, rtol=1e-5)
    judged, _ = one_round(iqr_clip_avg(clip_norm=2.0), UPDATES, context=context)
    # Gradients of 2, 4, 6, 8 and 20: the fence is 9.2.
    assert judged.scores["flagged"].tolist() == [False] * 4 + [True]
    with pytest.raises(ValueError, match="nothing of the clients' local work"):
        one_round(clip_avg(), UPDATES, context={"local_lr": None})


def test_the_whole_state_counts_statistics_and_batches(one_round):
    """By hand: one BatchNorm layer, three statistics that only the third client moves.

    Its parameters alone (length 3) do not stand out; with statistics of length 40 it
    does, and they are clipped, too. A counter adds T = 5 to all.
    """
    buffers = np.zeros((5, 2))
    buffers[2] = [0.0, 40.0]
    updates = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0], [2.0, 0.0]]
    layer = SimpleNamespace(buffer_layout=SimpleNamespace(shapes=((1,), (1,))))
    context = {"network": layer, "global_buffers": jnp.zeros(2)}
    defense = iqr_clip_avg(clip_norm=2.0, whole_state=True, **STEPS)
    judged, result = one_round(defense, updates, buffers=buffers, context=context)
    assert judged.scores["flagged"].tolist() == [False, False, True, False, False]
    length = np.sqrt(3.0**2 + 40.0**2 + 5.0**2)
    factor = 2.0 * 0.5 / length
    np.testing.assert_allclose(judged.scores["clip_factor"][2], factor, rtol=1e-5)
    np.testing.assert_allclose(result.buffers, [0.0, 8.0 * factor], rtol=1e-5)
    judged, _ = one_round(iqr_clip_avg(clip_norm=2.0, **STEPS), updates)
    assert not judged.scores["flagged"][2]


@pytest.mark.parametrize("factory", [clip_avg, iqr_clip_avg])
@pytest.mark.parametrize(
    ("key", "value"), [("clip_norm", 0), ("clip_decay", -1), ("local_steps", 0)]
)
def test_bad_arguments_are_refused(factory, key, value):
    with pytest.raises(InputError, match=f"config.defense.{key} = {value} must"):
        factory(**{key: value})
