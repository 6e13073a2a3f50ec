"""In which precision matmuls are computed.

What float32 means in one depends on the backend: TPUs multiply in bfloat16 by default
(8 bits of significand) and NVIDIA's matrix units may in TensorFloat-32 (11), both with
sums in float32. That is well for training, but not for what a server decides by.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])


def highest(function: F) -> F:
    """Returns the function with all matmuls it traces in full float32.

    A caller's precision does not reach into it; what it calls may set its own.
    """

    @wraps(function)
    def precisely(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return cast(F, precisely)
