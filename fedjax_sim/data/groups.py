"""Whose samples they are: names of writers or users as numbers."""

from collections.abc import Sequence

import numpy as np


def numbered(names: Sequence | np.ndarray) -> np.ndarray:
    """Returns int32 [n]: the place of each name among the sorted distinct ones."""
    _, numbers = np.unique(np.asarray(names), return_inverse=True)
    return numbers.astype(np.int32)
