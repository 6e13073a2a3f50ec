"""The one exception that means "the user can fix this".

Everything a user may get wrong (an unknown or ill-typed key, an impossible
combination, a missing or damaged file, too few clients) is raised as
`InputError`. Its message is one line that names the key or path, the value that
was given and what is allowed. The launchers print that line and leave with exit
code 2; library callers may catch it.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in the user's input; the message is one complete line."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns a hint that names the nearest valid name, else lists all of them."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    listing = f"allowed: {', '.join(valid)}"
    return f"did you mean '{near[0]}'? ({listing})" if near else listing
