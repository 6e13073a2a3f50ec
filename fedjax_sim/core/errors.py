"""The one exception that means "the user can fix this".

Everything a user may get wrong (an unknown or ill-typed key, an impossible
combination, a missing or damaged file, too few clients) is raised as
`InputError`. Its message is one line that names the key or path, the value that
was given and what is allowed. The launchers print that line and leave with exit
code 2; library callers may catch it.
"""

import difflib
import math
from collections.abc import Iterable
from errno import EDQUOT, ENOSPC
from typing import Any, get_args

# What the numbers of a program can hold; a larger option would silently be inf, or -1.
FLOAT32_MAX = 3.4028234663852886e38
INT32_MAX = 2**31 - 1


class InputError(ValueError):
    """A mistake in the user's input; the message is one complete line."""


def disk_full(error: BaseException) -> str | None:
    """Returns a line for the user if an error means that a disk is full, else None."""
    if not isinstance(error, OSError) or error.errno not in (ENOSPC, EDQUOT):
        return None
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}; nothing that was complete is lost: the same command "
        "goes on when there is space"
    )


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns a hint that names the nearest valid name, else lists all of them."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    listing = f"allowed: {', '.join(valid)}"
    return f"did you mean '{near[0]}'? ({listing})" if near else listing


def check_choice(section: str, key: str, value: Any, choices: Any) -> None:
    """Raises InputError unless `value` is one of the names that may be chosen.

    `choices` are the names, or a Literal type of them.
    """
    names = get_args(choices) or tuple(choices)
    if value not in names:
        raise InputError(
            f"config.{section}.{key} = {value!r} is not allowed; "
            f"{did_you_mean(str(value), names)}"
        )


def check_range(
    section: str,
    key: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
) -> None:
    """Raises InputError unless a number of a config lies in [low, high].

    Where nothing bounds it from above, it must not be larger than the int32 or the
    float32 that a program holds it in.
    With `open_low` it must be above `low`. What is no number, None or traced by a
    sweep, is not checked.
    """
    if not isinstance(value, int | float):
        return
    above = low < value if open_low else low <= value
    largest = INT32_MAX if isinstance(value, int) else FLOAT32_MAX
    if above and value <= high and (high < math.inf or abs(value) <= largest):
        return
    if above and value <= high and math.isfinite(value):
        most = (
            "2147483647 (int32)" if isinstance(value, int) else "3.4028234e38 (float32)"
        )
        raise InputError(f"config.{section}.{key} = {value} must lie within +-{most}")
    if high == math.inf:
        allowed = f"be {'above' if open_low else 'at least'} {low}"
    elif open_low:
        allowed = f"be above {low} and at most {high}"
    else:
        allowed = f"lie between {low} and {high}"
    raise InputError(f"config.{section}.{key} = {value} must {allowed}")
