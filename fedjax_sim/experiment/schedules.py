"""What the text of a compiled program says: estimated cycles, and bytes moved.

The TPU's compiler writes an estimate of its cycles beside each operation, but not for
a whole program; and nothing says how often the body of a loop is run. Here loops are
counted: by the constant in their condition, or by the name of their scope.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedjax_sim.experiment.arithmetic import length_of


class Cost(NamedTuple):
    """Of a program, or a part of it.

    Attributes:
      cycles: as the compiler estimates them, of operations one after the other.
      bytes: that operations read and write in the main memory.
      unknown: loops that were counted once because their length is not known.
    """

    cycles: float = 0.0
    bytes: float = 0.0
    unknown: int = 0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        return Cost(
            self.cycles + times * other.cycles,
            self.bytes + times * other.bytes,
            self.unknown + other.unknown,
        )


_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALL = re.compile(r"to_apply=%?([\w.\-]+)")
_LISTED = re.compile(r"branch_computations=\{([^}]*)\}")
_NAME = re.compile(r"%?([\w.\-]+)")
_TWO = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5}
# What moves no bytes of its own.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "while",
    "conditional",
    "call",
}


def cost_of(text: str, lengths: Mapping[str, float]) -> Cost:
    """Returns the cost of a compiled program.

    Args:
      text: of its HLO, after scheduling.
      lengths: of loops that the data decide, by the name of their scope.
    """
    computations, entry = _parts(text)
    known: dict[str, Cost] = {}

    def cost(name: str) -> Cost:
        if name not in known:
            known[name] = Cost()  # what a computation says of itself is nothing
            known[name] = _computation(computations[name], computations, cost, lengths)
        return known[name]

    return cost(entry)


def _parts(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first to be run."""
    computations: dict[str, list[str]] = {}
    entry = lines = None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = computations.setdefault(head[1], [])
            entry = head[1] if line.startswith("ENTRY") else entry
        elif lines is not None and _LINE.match(line):
            lines.append(line)
    if entry is None:
        raise ValueError("no program in the text")
    return computations, entry


def _computation(
    lines: list[str],
    computations: dict[str, list[str]],
    cost: Callable[[str], Cost],
    lengths: Mapping[str, float],
) -> Cost:
    """The cost of one computation, those that it calls included."""
    total, sizes = Cost(), {}
    for line in lines:
        name, rest = _named(_LINE, line)
        shape, kind = _split(rest)
        sizes[name] = _bytes(shape)
        if kind == "while":
            body, condition = _named(_LOOP, rest)[::-1]
            times = _length(rest, computations[condition], lengths)
            once = cost(body).plus(cost(condition))
            total = total.plus(once, 1.0 if times is None else times)
            total = total.plus(Cost(unknown=int(times is None)))
        elif kind == "conditional":
            total = total.plus(max(map(cost, _branches(rest))))
        elif kind == "call":
            total = total.plus(cost(_named(_CALL, rest)[0]))
        if kind not in _FREE:
            cycles = _CYCLES.search(rest)
            operands = re.findall(r"%([\w.\-]+)", rest[len(shape) :].split(")", 1)[0])
            moved = sizes[name] + sum(sizes.get(other, 0.0) for other in operands)
            total = total.plus(Cost(float(cycles[1]) if cycles else 0.0, moved))
    return total


def _named(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    found = pattern.search(text)
    if found is None:
        raise ValueError(f"not as XLA writes it: {text[:200]}")
    return found.groups()


def _branches(rest: str) -> list[str]:
    listed = _LISTED.search(rest)
    return _NAME.findall(listed[1]) if listed else _TWO.findall(rest)


def _split(rest: str) -> tuple[str, str]:
    """The shape and the kind of an operation."""
    depth = 0
    for i, letter in enumerate(rest):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and depth == 0:
            return rest[:i], rest[i + 1 :].split("(", 1)[0]
    return rest, ""


def _length(
    line: str, condition: list[str], lengths: Mapping[str, float]
) -> float | None:
    """How often a loop is run; None: not known."""
    scope = _SCOPE.search(line)  # ".../SCOPE/while"
    named = length_of(scope[1].rpartition("/")[0], lengths) if scope else None
    if named is not None:
        return named
    bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return float(bounds[0]) if len(bounds) == 1 else None


def _bytes(shape: str) -> float:
    """Of an array or a tuple of them; arrays in on-chip memory count as nothing."""
    total = 0.0
    for kind, dims, layout in _SHAPE.findall(shape):
        if "S(" in layout:
            continue
        count = 1
        for size in filter(None, dims.split(",")):
            count *= int(size)
        bits = re.search(r"\d+", kind)
        total += count * _WIDTHS.get(kind, int(bits[0]) / 8 if bits else 1)
    return total
