"""The memory estimate: of programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_sim.contracts.client import Batch
from fedjax_sim.core.errors import InputError
from fedjax_sim.experiment import memory, target
from fedjax_sim.models import build
from fedjax_sim.round.execution import Strategy
from fedjax_sim.round.training import batch_gradient

MB = 10**6


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_program_of_arguments_needs_their_bytes():
    assert memory.peak_bytes(lambda x, y: (x, y), floats(1000), floats(10, 5)) == 4200


def test_elementwise_chain_keeps_two_arrays():
    # x is used once more in the end: x, the intermediate and the next one.
    peak = memory.peak_bytes(
        lambda x: jnp.sin(jnp.cos(jnp.tanh(x))) + x, floats(MB // 4)
    )
    assert peak == 3 * MB


def test_a_value_lives_until_its_last_use():
    def chain(x):
        for _ in range(10):
            x = jnp.sin(x)
        return x

    assert memory.peak_bytes(chain, floats(MB // 4)) == 2 * MB


def test_everything_needed_at_the_end_counts():
    def keep(x):
        parts = [jnp.sin(x * i) for i in range(1, 8)]
        return sum(parts[::-1][1:], parts[-1])

    # Seven parts, the argument, and not more than two temporaries.
    assert 8 * MB <= memory.peak_bytes(keep, floats(MB // 4)) <= 10 * MB


def outer(x):
    return jnp.tanh(x[:, None] * x[None, :]).sum()


@pytest.mark.parametrize(
    "function",
    [
        outer,
        jax.jit(outer),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, s: s + outer(x + s), 0.0),
        lambda x: jax.lax.cond(x[0] > 0, outer, jnp.sum, x),
        lambda x: jax.lax.map(outer, x[None])[0],
        lambda x: jax.checkpoint(outer)(x),
    ],
)
def test_temporaries_of_inner_programs_count(function):
    # The outer product of 500 numbers takes 1 MB, with its temporary 2 MB.
    assert MB <= memory.peak_bytes(function, floats(500)) <= 3 * MB


def test_a_loop_over_large_inputs_needs_its_temporaries_as_well():
    """The slices of a loop are smaller than what the loop is given."""
    peak = memory.peak_bytes(lambda xs: jax.lax.map(outer, xs), floats(1000, 500))
    # 2 MB of inputs, and at least 1 MB for one outer product.
    assert 3 * MB <= peak <= 6 * MB


def test_estimate_of_a_training_step_against_the_compiler():
    model = build("cnn", num_classes=10, image_shape=(14, 14, 1))
    params, buffers = jax.eval_shape(model.init, jax.random.key(0))

    def arguments(size):
        batch = Batch(
            floats(size, 14, 14, 1),
            jax.ShapeDtypeStruct((size,), jnp.int32),
            jax.ShapeDtypeStruct((size,), jnp.bool_),
        )
        return params, buffers, batch

    gradient = batch_gradient(model, None)
    estimate = memory.peak_bytes(gradient, *arguments(32))
    compiled = jax.jit(gradient).lower(*arguments(32)).compile().memory_analysis()
    needed = (
        compiled.temp_size_in_bytes
        + compiled.argument_size_in_bytes
        + compiled.output_size_in_bytes
    )
    assert needed / 3 <= estimate <= 3 * needed
    live = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    sizes = [memory.peak_bytes(gradient, *arguments(size)) for size in (1, 8, 64)]
    assert live < sizes[0] < sizes[1] < sizes[2]


def test_available_memory_is_a_sensible_number():
    assert 2**20 < target.available_bytes() < 2**50


# ------------------------------------------------------------------------------ plan


def plan(stack, *, room, cohort=10, may_shrink=False, fixed=100):
    """Room for `room` clients of 1000 bytes beside what is fixed."""
    return memory.plan(
        Strategy(stack),
        cohort_size=cohort,
        needs=memory.Needs(per_client=1000, fixed=fixed),
        limit=fixed + room * 1000,
        may_shrink=may_shrink,
    )


@pytest.mark.parametrize("may_shrink", [True, False])
@pytest.mark.parametrize(
    ("stack", "room"), [(1, 1), (4, 4), (4, 9), (None, 10), (64, 10)]
)
def test_a_strategy_that_fits_stays(stack, room, may_shrink):
    assert plan(stack, room=room, may_shrink=may_shrink) == Strategy(stack)


@pytest.mark.parametrize(("stack", "room"), [(8, 7), (8, 1), (None, 9)])
def test_auto_stacks_fewer_clients(stack, room):
    assert plan(stack, room=room, may_shrink=True) == Strategy(room)


@pytest.mark.parametrize(("stack", "room", "asked"), [(8, 7, 8), (None, 9, 10)])
def test_a_strategy_asked_for_that_does_not_fit_is_an_error(stack, room, asked):
    with pytest.raises(InputError, match=f"stacks {asked} clients") as error:
        plan(stack, room=room)
    assert f"chunk:{room} fits" in str(error.value)
    assert "config.execution.memory_gib" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("may_shrink", [True, False])
@pytest.mark.parametrize("room", [0, -1])
def test_no_room_for_one_client_is_an_error(room, may_shrink):
    with pytest.raises(InputError, match="even with one client at a time") as error:
        plan(1, room=room, may_shrink=may_shrink, fixed=5000)
    assert "config.execution.memory_gib" in str(error.value)
    assert "\n" not in str(error.value)
