"""JSON files that a run left."""

import json
from pathlib import Path
from typing import Any

from fedjax_sim.core.errors import InputError

RESTORE = "restore the file or start in a new --workdir"


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Reads a file with a JSON object.

    Raises:
      InputError: it is damaged, no object, or lacks one of the keys.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {RESTORE}") from None
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing or not isinstance(value, dict):
        lacks = f"without '{missing[0]}'" if missing else "no object"
        raise InputError(f"{path}: {lacks}; {RESTORE}")
    return value
