"""Arithmetic and bytes of programs, counted through their loops: cases by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fedjax_sim.experiment.arithmetic import flops
from fedjax_sim.experiment.schedules import cost_of

LENGTHS = {"steps": 5.0}


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops(jax.make_jaxpr(function)(*arguments).jaxpr, LENGTHS)


def multiply(x):
    return x @ x  # [4, 4]: 2 * 4 * 16 = 128 FLOP


def named(x, count):
    with jax.named_scope("steps"):
        return lax.fori_loop(0, count, lambda i, x: multiply(x), x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (multiply, 128),
        (jax.jit(multiply), 128),
        (lambda x: lax.fori_loop(0, 3, lambda i, x: multiply(x), x), 3 * 128),
        (lambda x: named(x, x.sum().astype(int)), 5 * 128),
        (
            lambda x: lax.cond(
                x[0, 0] > 0, lambda: multiply(multiply(x)), lambda: multiply(x)
            ),
            256,
        ),
        (lambda x: jax.vmap(lambda y: named(y, 2 + x[0, 0].astype(int)))(x[None]), 640),
    ],
)
def test_arithmetic_of_loops_and_branches(function, expected):
    assert counted(function, (4, 4)) == expected


def test_arithmetic_of_a_convolution_and_its_gradient():
    def conv(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=dims
        )

    shapes = (1, 6, 6, 2), (3, 3, 2, 5)
    once = 2 * (3 * 3 * 2) * (4 * 4 * 5)
    assert counted(conv, *shapes) == once
    kernel_gradient = jax.grad(lambda x, k: conv(x, k).sum(), 1)
    assert counted(kernel_gradient, *shapes) == 2 * once  # the forward pass, too


PROGRAM = """
HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %y = f32[8]{0:S(1)} fusion(%x), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%x, %y)
}

%static (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]{0}) parameter(0)
  %n = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%q, %n), direction=LT
}

%dynamic (r: (s32[], f32[8])) -> pred[] {
  ROOT %r = (s32[], f32[8]{0}) parameter(0)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %w = (s32[], /*index=1*/f32[8]{0}) while(%a), condition=%static, body=%body
  %v = (s32[], f32[8]{0}) while(%a), condition=%dynamic, body=%body, metadata={op_name="jit(f)/vmap(steps)/while"}
  %u = (s32[], f32[8]{0}) while(%a), condition=%dynamic, body=%body, metadata={op_name="jit(f)/while"}
  %z = (s32[], f32[8]{0}) while(%a), condition=%dynamic, body=%body, metadata={op_name="jit(f)/times_0/while"}
  ROOT %c = f32[8]{0} copy(%a), backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501


def test_a_compiled_program_is_counted_through_its_loops():
    cost = cost_of(PROGRAM, LENGTHS)
    assert cost.cycles == 3 + (7 + 5 + 1 + 0) * 10
    # The fusion reads 32 bytes and keeps its result on the chip, the static loop
    # compares 40 bytes with 4 to one, and the copy reads and writes 32.
    assert cost.bytes == 64 + 13 * 32 + 7 * (36 + 4 + 1)
    assert cost.unknown == 1


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no program"):
        cost_of("HloModule nothing", {})
