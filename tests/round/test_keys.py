"""No key of a round serves two purposes."""

from collections import Counter

import jax
import numpy as np
import pytest
from helpers import build, jitted_rounds, start_state
from jax.extend.random import define_prng_impl

CASES = {
    "plain": {},
    "ldp": {"client_defense.name": "ldp"},
    "ldp_update": {"client_defense.name": "ldp_update"},
    "fl_wbc": {"client_defense.name": "fl_wbc"},
    "leadfl": {"client_defense.name": "leadfl"},
    "flip": {"defense.name": "flip", "defense.start_round": 1},
    "flip and ldp": {
        "defense.name": "flip",
        "defense.start_round": 1,
        "client_defense.name": "ldp",
    },
    "flip and fl_wbc": {
        "defense.name": "flip",
        "defense.start_round": 1,
        "client_defense.name": "fl_wbc",
    },
    "coded flip": {
        "defense.name": "flip",
        "defense.start_round": 1,
        "defense.variant": "authors",
        "client_defense.name": "ldp",
    },
    "flame": {"defense.name": "flame", "attack.name": "gaussian"},
    "random_aggregation": {"defense.name": "random_aggregation"},
    "dnc": {
        "defense.name": "dnc",
        "defense.num_iterations": 3,
        "defense.num_coordinates": 9,
    },
    "crfl": {"defense.name": "crfl"},
    "fltrust": {"defense.name": "fltrust"},
    "finetune": {"defense.name": "finetune", "defense.num_samples": 20},
    "enforced": {"participation.name": "enforced", "attack.num_malicious": 3},
}


SEEN: list[tuple[str, tuple[int, ...], int]] = []  # what is done to which key


def watched_keys():
    """Returns a kind of key that notes in `SEEN` what a running program does to it."""

    def note(what, key, number):
        def record(key, number):
            SEEN.append((what, tuple(np.asarray(key).tolist()), int(number)))

        jax.debug.callback(record, key, number)

    def split(key, shape):
        note("split", key, int(np.prod(shape)))
        return jax.random.key_data(
            jax.random.split(jax.random.wrap_key_data(key), shape)
        )

    def fold_in(key, number):
        note("fold", key, number)
        folded = jax.random.fold_in(jax.random.wrap_key_data(key), number)
        return jax.random.key_data(folded)

    def random_bits(key, bit_width, shape):
        note("draw", key, 0)
        dtype = f"uint{bit_width}"
        return jax.random.bits(jax.random.wrap_key_data(key), shape, dtype)

    return define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jax.random.key_data(jax.random.key(seed)),
        split=split,
        random_bits=random_bits,
        fold_in=fold_in,
        name="watched",
        tag="watched",
    )


WATCHED = watched_keys()


LONG = {"coded flip", "flip", "flip and ldp", "flip and fl_wbc", "finetune"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if c in LONG else ()) for c in CASES],
)
def test_no_key_serves_two_purposes(case):
    built = build({"client.steps": 2, **CASES[case]})
    key = jax.random.key(7, impl=WATCHED)
    built = built._replace(inputs=built.inputs._replace(key=key))
    state = start_state(built)
    jax.effects_barrier()
    SEEN.clear()
    jax.block_until_ready(jitted_rounds(built, 1)(state, built.inputs, 1))
    jax.effects_barrier()
    drawn = Counter(key for what, key, _ in SEEN if what == "draw")
    children = Counter(
        (key, child)
        for what, key, number in set(SEEN)
        if what != "draw"
        for child in (range(number) if what == "split" else [number])
    )
    assert drawn
    assert max(drawn.values()) == 1, "drawn from twice"
    parents = {key for key, _ in children}
    assert not parents & set(drawn), "drawn from, and split or folded with numbers"
    assert max(children.values()) == 1, "split, and folded with the number of a part"


def test_a_part_of_a_key_is_the_key_folded_with_its_number():
    """Why the test above counts both as one."""
    key = jax.random.key(3)
    parts = jax.random.key_data(jax.random.split(key, 4))
    folded = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(4)]
    np.testing.assert_array_equal(parts, folded)
