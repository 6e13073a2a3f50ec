"""PoisonedFL: one direction, lengths from the global updates, three adaptations."""

import jax.numpy as jnp
import numpy as np
import pytest
from attacks.views import make_spec, make_view, quick_jit

from fedjax_sim.attacks.poisonedfl import aligned_enough, count_aligned, poisonedfl
from fedjax_sim.core.errors import InputError
from fedjax_sim.numerics.flat import flat_layout

SIZE = 400
FAKES = jnp.array([False, True, False, True, True])
LAYOUT = flat_layout({"w": jnp.zeros(SIZE)})


def play(attack, steps, fakes=None, params=None):
    """Crafts against a given sequence of global updates f32 [rounds, d].

    Returns a list of (state, f32 [q, d]), one for each broadcast model.
    """
    craft = quick_jit(attack.craft)
    state = attack.init(make_spec(layout=LAYOUT))
    params = jnp.zeros(SIZE) if params is None else params
    played = []
    for r in range(len(steps) + 1):
        view = make_view(FAKES, SIZE, seed=r, round_index=r + 1)
        malicious = FAKES if fakes is None else FAKES & fakes[r]
        view = view._replace(global_params=params, malicious=malicious)
        state, sent = craft(state, view)
        played.append((state, np.asarray(sent[malicious])))
        if r < len(steps):
            params = params + steps[r]
    return played


STEPS = jnp.asarray(np.random.default_rng(1).normal(size=(7, SIZE)), jnp.float32)


def test_direction_is_drawn_once_and_every_vector_has_its_signs():
    played = play(poisonedfl(window=100), STEPS)
    first = played[0][0].direction
    assert set(np.unique(first)) == {-1, 1} and abs(first.mean()) < 0.2
    assert not played[0][1].any()  # nothing is known in the first round
    for (state, sent), step in zip(played[1:], STEPS, strict=True):
        np.testing.assert_array_equal(state.direction, first)
        assert (sent == sent[0]).all()
        np.testing.assert_array_equal(np.sign(sent[0]), first)
        length = np.linalg.norm(sent[0]) / np.linalg.norm(step)
        np.testing.assert_allclose(length, 8.0, rtol=1e-4)


def test_what_the_fakes_caused_is_taken_out_of_the_step():
    attack = poisonedfl(window=100, initial_scale=1.0)
    sent = play(attack, STEPS[:1])[1][1][0]
    # The model follows the fakes, but for one coordinate.
    steps = jnp.stack([STEPS[0], jnp.asarray(sent).at[0].multiply(50.0)])
    vector = play(attack, steps)[2][1][0]
    assert abs(vector[0]) > 10 * np.abs(vector[1:]).max()


def aligned_step(state, share):
    """A step with the wanted sign in this share of the coordinates."""
    right = jnp.arange(SIZE) < share * SIZE
    return 0.01 * jnp.where(right, state.direction, -state.direction)


@pytest.mark.parametrize(
    ("share", "test", "stays"),
    [
        (0.2, "binomial", False),
        (0.53, "binomial", False),
        (0.53, "majority", True),
        (0.6, "binomial", True),
        (0.5, "majority", False),
    ],
)
def test_scale_shrinks_unless_the_window_followed(share, test, stays):
    attack = poisonedfl(window=3, test=test)
    state = play(attack, STEPS[:0])[0][0]
    steps = [aligned_step(state, share)] * 6
    scales = [float(state.scale) for state, _ in play(attack, steps)]
    expected = [8.0] * 7 if stays else [8.0] * 3 + [5.6] * 3 + [3.92]
    np.testing.assert_allclose(scales, expected, rtol=1e-6)


@pytest.mark.parametrize("test", ["majority", "binomial"])
def test_a_window_of_one_round_looks_at_the_last_step(test):
    attack = poisonedfl(window=1, test=test)
    state = play(attack, STEPS[:0])[0][0]
    shares = [0.0, 1.0, 1.0, 0.0, 1.0]  # in the first round fakes send zeros
    steps = [aligned_step(state, share) for share in shares]
    played = play(attack, steps)
    scales = [float(state.scale) for state, _ in played]
    np.testing.assert_allclose(scales, [8.0] * 4 + [5.6] * 2, rtol=1e-6)


def test_scale_stays_above_its_floor():
    attack = poisonedfl(window=1, initial_scale=1.0, min_scale=0.6)
    state = play(attack, STEPS[:0])[0][0]
    played = play(attack, [aligned_step(state, 0.0)] * 4)
    np.testing.assert_allclose(played[-1][0].scale, 0.7, rtol=1e-6)


def test_rounds_without_fakes_keep_what_was_sent():
    fakes = [True, True, False, False, True, True, True, True]
    played = play(poisonedfl(), STEPS, fakes=fakes)
    np.testing.assert_array_equal(played[1][0].sent, played[3][0].sent)
    np.testing.assert_allclose(played[1][0].sent, played[1][1][0], rtol=1e-6)
    assert (played[4][0].sent != played[3][0].sent).any()
    assert [len(sent) for _, sent in played[:3]] == [3, 3, 0]


def test_attack_counts_from_its_first_round():
    """A late start: no test before it, and zeros first."""
    attack = poisonedfl(start_round=4, window=2)
    fakes = [False] * 3 + [True] * 5
    played = play(attack, STEPS, fakes=fakes)
    assert not played[3][1].any() and played[4][1].all()
    scales = [float(state.scale) for state, _ in played]
    assert scales[:5] == [8.0] * 5 and scales[5] <= 8.0
    steps = [aligned_step(played[0][0], 0.0)] * 7
    scales = [float(state.scale) for state, _ in play(attack, steps, fakes=fakes)]
    np.testing.assert_allclose(scales, [8.0] * 5 + [5.6, 5.6, 3.92], rtol=1e-6)


def test_noise_has_the_asked_length_and_differs():
    played = play(poisonedfl(adaptation="noise", noise_scale=0.5), STEPS[:1])
    plain = play(poisonedfl(), STEPS[:1])[1][1]
    noise = played[1][1] - plain
    length = np.linalg.norm(plain[0])
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), 0.5 * length, rtol=1e-3)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.3


def test_sign_flips_have_the_asked_probability():
    attack = poisonedfl(adaptation="sign_flip", flip_probability=0.2)
    state, sent = play(attack, STEPS[:1])[1]
    flips = np.sign(sent) != np.asarray(state.direction)
    np.testing.assert_allclose(flips.mean(), 0.2, atol=0.05)
    assert (flips[0] != flips[1]).any()
    np.testing.assert_allclose(np.abs(sent[0]), np.abs(sent[1]))


@pytest.mark.parametrize("rule", ["norm", "none", "mean"])
def test_parts_are_disjoint_balanced_and_fixed(rule):
    attack = poisonedfl(adaptation="partition", partition_scale=rule)
    played = play(attack, STEPS[:2])
    plain = play(poisonedfl(), STEPS[:1])[1][1][0]
    owned = played[1][1] != 0
    np.testing.assert_array_equal(owned.sum(0), 1)
    assert np.ptp(owned.sum(1)) <= 1
    np.testing.assert_array_equal(played[2][1] != 0, owned)
    sent = played[1][1]
    if rule == "norm":
        lengths = np.linalg.norm(sent, axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(plain), rtol=1e-4)
    else:
        whole = sent.mean(0) if rule == "mean" else sent.sum(0)
        np.testing.assert_allclose(whole, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "count"),
    [(139960, 70415), (1204682, 603618), (717924, 359948), (145212, 73049)],
)
def test_thresholds_of_alignment_are_the_published_ones(size, count):
    assert aligned_enough(size, "binomial", 0.01) == count
    assert aligned_enough(size, "majority", 0.01) == size // 2 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "binom99"}, "test = 'binom99'"),
        ({"adaptation": "flip"}, "adaptation = 'flip'"),
        ({"partition_scale": "sum"}, "partition_scale = 'sum'"),
        ({"window": 0}, "window = 0"),
        ({"flip_probability": 2.0}, "flip_probability"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=r"config\.attack\." + message):
        poisonedfl(**options)


def test_reports_its_scale_and_how_far_the_model_follows():
    attack = poisonedfl()
    for state, _ in play(attack, STEPS[:3]):
        found = attack.report(state)
        assert found["scale"] == state.scale
        aligned = count_aligned(state.model, state.anchor, state.direction)
        np.testing.assert_allclose(found["aligned"], aligned / state.model.size)


def test_fakes_know_nothing_and_train_nothing():
    assert poisonedfl().knowledge == () and not poisonedfl().trains
