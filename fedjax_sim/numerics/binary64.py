"""IEEE double precision in pairs of 32-bit words, bit for bit.

Where a decision must be the host's, ties included, its arithmetic has to be the host's
too: accelerators have no such numbers (TPU), or JAX is not asked for them. Everything
here is arithmetic of unsigned integers, so that no compiler rounds it another way; on a
CPU it is the processor's own, which takes a tenth of the time to compile.

Only numbers that are zero or normal and not negative are allowed, which is what squares
of float32 and their means are (1e-90 to 1e77). Rounding is to nearest, ties to even
(IEEE 754-2008, section 4.3.1).
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# A significand is held in 63 bits: 53 of them count, 10 tell how to round.
_GUARD = 10
_TOP = np.uint32(1 << 30)


class Double(NamedTuple):
    """Numbers of double precision; both words have the shape of the numbers."""

    high: Array  # u32, sign, exponent and the upper 20 bits of the fraction
    low: Array  # u32, the lower 32 bits of the fraction


Operation = Callable[..., Double]


def _or_native(operation: Callable[..., Array]) -> Callable[[Operation], Operation]:
    """Marks an emulated operation: on a CPU it is this one on f64."""

    def decorate(emulated: Operation) -> Operation:
        def native(*numbers: Double) -> Double:
            with jax.enable_x64(True):
                return _of_native(operation(*map(_to_native, numbers)))

        @wraps(emulated)
        def operate(*numbers: Double) -> Double:
            return lax.platform_dependent(*numbers, cpu=native, default=emulated)

        return operate

    return decorate


def _to_native(number: Double) -> Array:
    words = jnp.stack([number.low, number.high], -1)
    return lax.bitcast_convert_type(words, jnp.float64)


def _of_native(number: Array) -> Double:
    words = lax.bitcast_convert_type(number, jnp.uint32)
    return Double(words[..., 1], words[..., 0])


def of_host(values: np.ndarray) -> Double:
    """Returns constants f64 of NumPy."""
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    words = bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)
    return Double(*(jnp.asarray(word.astype(np.uint32)) for word in words))


def of_float32(values: Array) -> Double:
    """Returns f32 values, which must be finite and not negative, as doubles."""
    bits = lax.bitcast_convert_type(values, jnp.uint32)
    # Numbers below 2^-126 have no leading one: it is looked for.
    zeros = lax.clz(bits).astype(jnp.int32)
    small = bits < (1 << 23)
    exponent = jnp.where(small, 9 - zeros, (bits >> 23).astype(jnp.int32))
    shift = jnp.where(small, zeros - 8, 0).astype(jnp.uint32)
    fraction = (bits << shift) & 0x7FFFFF
    high = ((exponent + 896).astype(jnp.uint32) << 20) | (fraction >> 3)
    zero = bits == 0
    return Double(jnp.where(zero, 0, high), jnp.where(zero, 0, fraction << 29))


def less(a: Double, b: Double) -> Array:
    """Returns bool: a < b."""
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def where(chosen: Array, a: Double, b: Double) -> Double:
    """Returns a where chosen, else b."""
    return Double(*(jnp.where(chosen, x, y) for x, y in zip(a, b, strict=True)))


@_or_native(jnp.multiply)
def multiply(a: Double, b: Double) -> Double:
    """Returns a * b."""
    (ahigh, alow), (bhigh, blow) = _significand(a, 11), _significand(b, 11)
    # Of the 128 bits of the product the upper 64, and whether others are set.
    first = _product(alow, blow)
    middle, _ = _add(_product(ahigh, blow), (jnp.uint32(0), first[0]))
    more, carry = _add(_product(alow, bhigh), middle)
    high, low = _add(_product(ahigh, bhigh), (carry, more[0]))[0]
    low |= (first[1] | more[1]) != 0
    exponent = _exponent(a) + _exponent(b) - 1022
    long = high >> 31 != 0
    high, low = _choose(long, _shift_right((high, low), 1), (high, low))
    product = _rounded(exponent - ~long, high, low)
    return where(_is_zero(a) | _is_zero(b), Double(*_zeros(product)), product)


@_or_native(jnp.add)
def add(a: Double, b: Double) -> Double:
    """Returns a + b."""
    larger, smaller = where(less(a, b), b, a), where(less(a, b), a, b)
    (high, low), aligned = _aligned(larger, smaller)
    (high, low), _ = _add((high, low), aligned)
    long = high >> 31 != 0
    high, low = _choose(long, _shift_right((high, low), 1), (high, low))
    total = _rounded(_exponent(larger) + long, high, low)
    return where(_is_zero(smaller), larger, total)


@_or_native(jnp.subtract)
def subtract(a: Double, b: Double) -> Double:
    """Returns a - b, where b must be at most a."""
    (high, low), aligned = _aligned(a, b)
    high, low = _subtract((high, low), aligned)
    zeros = jnp.where(high != 0, lax.clz(high), 32 + lax.clz(low)).astype(jnp.int32) - 1
    zeros = jnp.clip(zeros, 0, 62)
    difference = _rounded(_exponent(a) - zeros, *_shift_left((high, low), zeros))
    nothing = (high | low) == 0
    difference = where(nothing, Double(*_zeros(a)), difference)
    return where(_is_zero(b), a, difference)


@_or_native(jnp.sqrt)
def square_root(a: Double) -> Double:
    """Returns the square root, digit by digit."""
    exponent = _exponent(a) - 1023
    odd = exponent & 1
    # Of m in [1, 4) as 64 bits, two before the point.
    radicand = _significand(a, 10)
    radicand = _choose(odd == 1, _shift_left(radicand, jnp.ones_like(odd)), radicand)

    def digit(_, carry):
        """The next binary digit of the root, as with pencil and paper."""
        (high, low), remainder, root = carry
        rest, digits = _shift_left_by(remainder, 2)
        del rest  # the remainder is at most twice the root
        remainder = digits[0], digits[1] | (high >> 30)
        _, trial = _shift_left_by(root, 2)
        trial = trial[0], trial[1] | 1
        fits = ~less(Double(*remainder), Double(*trial))
        remainder = _choose(fits, _subtract(remainder, trial), remainder)
        _, root = _shift_left_by(root, 1)
        root = root[0], root[1] | fits
        return _shift_left_by((high, low), 2)[1], remainder, root

    zeros = _zeros(a)
    # 54 digits: the last one rounds. No root ends there: if it is set, more follow.
    carry = (radicand, zeros, zeros)
    _, _, root = lax.fori_loop(0, 54, digit, carry, unroll=3)
    high, low = _shift_left_by(root, 9)[1]
    result = _rounded((exponent >> 1) + 1023, high, low | 1)
    return where(_is_zero(a), Double(*zeros), result)


# ------------------------------------------------------------------ words and bits

Words = tuple[Array, Array]  # u32 high and low word of an integer of 64 bits


def _is_zero(a: Double) -> Array:
    return (a.high | a.low) == 0


def _zeros(a: Words) -> Words:
    return jnp.zeros_like(a[0]), jnp.zeros_like(a[1])


def _exponent(a: Double) -> Array:
    return (a.high >> 20).astype(jnp.int32)


def _significand(a: Double, shift: int) -> Words:
    """The 53 bits of a, `shift` to the left."""
    return _shift_left_by(((a.high & 0xFFFFF) | 0x100000, a.low), shift)[1]


def _rounded(exponent: Array, high: Array, low: Array) -> Double:
    """Packs a significand whose leading one is bit 62."""
    up = (1 << (_GUARD - 1)) - 1 + ((low >> _GUARD) & 1)
    (high, low), _ = _add((high, low), (jnp.uint32(0), up.astype(jnp.uint32)))
    low = (low >> _GUARD) | (high << (32 - _GUARD))
    # The leading one, or two after a carry, adds to the exponent.
    return Double(((exponent - 1).astype(jnp.uint32) << 20) + (high >> _GUARD), low)


def _aligned(larger: Double, smaller: Double) -> tuple[Words, Words]:
    """Both significands at the exponent of the larger one, leading one at bit 62."""
    shift = jnp.clip(_exponent(larger) - _exponent(smaller), 0, 63)
    return (
        _significand(larger, _GUARD),
        _shift_right(_significand(smaller, _GUARD), shift),
    )


def _choose(chosen: Array, a: Words, b: Words) -> Words:
    return jnp.where(chosen, a[0], b[0]), jnp.where(chosen, a[1], b[1])


def _add(a: Words, b: Words) -> tuple[Words, Array]:
    """Returns a + b modulo 2^64, and the carry u32."""
    low = a[1] + b[1]
    carry = (low < a[1]).astype(jnp.uint32)
    part = a[0] + b[0]
    high = part + carry
    over = (part < a[0]) | (high < part)
    return (high, low), over.astype(jnp.uint32)


def _subtract(a: Words, b: Words) -> Words:
    return a[0] - b[0] - (a[1] < b[1]).astype(jnp.uint32), a[1] - b[1]


def _product(a: Array, b: Array) -> Words:
    """Returns the 64 bits of a * b."""
    a1, a0, b1, b0 = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    low, one, other, high = a0 * b0, a1 * b0, a0 * b1, a1 * b1
    middle = (low >> 16) + (one & 0xFFFF) + (other & 0xFFFF)
    high += (one >> 16) + (other >> 16) + (middle >> 16)
    return high, (low & 0xFFFF) | (middle << 16)


def _shift_left_by(a: Words, shift: int) -> tuple[Array, Words]:
    """Shifts by 1 to 31; returns what fell off, and the rest."""
    back = 32 - shift
    return a[0] >> back, ((a[0] << shift) | (a[1] >> back), a[1] << shift)


def _shift_left(a: Words, shift: Array) -> Words:
    """Shifts by 0 to 63."""
    shift = shift.astype(jnp.uint32)
    # XLA defines a shift by 32 and more as 0.
    high = (a[0] << shift) | (a[1] >> (32 - shift)) | (a[1] << (shift - 32))
    return high, a[1] << shift


def _shift_right(a: Words, shift: Array | int) -> Words:
    """Shifts by 0 to 63; the last bit says whether any that fell off was set."""
    shift = jnp.asarray(shift).astype(jnp.uint32)
    high = a[0] >> shift
    low = (a[1] >> shift) | (a[0] << (32 - shift)) | (a[0] >> (shift - 32))
    back = _shift_left((high, low), jnp.broadcast_to(shift, low.shape))
    lost = (back[0] != a[0]) | (back[1] != a[1])
    return high, low | lost
